"""The words after `dockless step`, and the variables that stand for them."""

import pytest

from runner import errors
from runner.adapters.step.asked import Asked, Service
from runner.cli import step_options
from runner.model import Limits


def parse(*words: str, environ: dict[str, str] | None = None) -> Asked:
    return step_options.parse([*words, "--", "c"], environ or {})


def refuse(*words: str, environ: dict[str, str] | None = None) -> errors.UserError:
    with pytest.raises(errors.UserError) as caught:
        step_options.parse([*words], environ or {})
    assert caught.value.message.startswith("step: ")
    assert caught.value.hint
    return caught.value


def test_nothing_is_the_default_of_everything() -> None:
    assert parse() == Asked(argv=("c",))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--image", "node:22"], {"image": "node:22"}),
        (["-e", "A=1", "--env=B"], {"env": (("A", "1"), ("B", "of the caller"))}),
        (["-v", "a:/b", "--volume=/c:/d:ro"], {"volumes": ("a:/b", "/c:/d:ro")}),
        (["-w", "sub"], {"cwd": "sub"}),
        (["--user", "node"], {"user": "node"}),
        (["--network", "none"], {"network": "none"}),
        (["--pull=missing"], {"pull": "if-not-present"}),
        (["-m", "1g", "--cpus=2", "--pids=9"], {"limits": Limits(1024**3, 2.0, 9)}),
        (["-h", "box"], {"hostname": "box"}),
        (["--platform", "linux/arm64"], {"platform": "linux/arm64"}),
        (["--build-user", "team"], {"build_user": "team"}),
        (["--docker", "--init"], {"docker": True, "init": True}),
        (["--service", "redis:7"], {"services": (Service("redis:7", "redis"),)}),
        (
            ["--service=docker.io/bitnami/kafka@sha256:0=", "--service", "registry:5000/db=main"],
            None,
        ),
        (["--service", "registry:5000/team/db:1=main"], {"services": (Service("registry:5000/team/db:1", "main"),)}),
        (["--service", "bitnami/kafka"], {"services": (Service("bitnami/kafka", "kafka"),)}),
        (["--service", "db@sha256:0a"], {"services": (Service("db@sha256:0a", "db"),)}),
        (["--service", "oci:/a=b/c"], {"services": (Service("oci:/a=b/c", "c"),)}),
        (["--service-env", "A=1", "--service-env", "B"], {"service_env": (("A", "1"), ("B", "of the caller"))}),
        (["--tools", "rw"], {"tools": "rw"}),
        (["--end"], {"end": True}),
    ],
)
def test_every_option_means_what_it_says(words: list[str], expected: dict[str, object] | None) -> None:
    environ = {"B": "of the caller"}
    if expected is None:
        with pytest.raises(errors.UserError):
            parse(*words, environ=environ)
    else:
        assert parse(*words, environ=environ) == Asked(argv=("c",))._replace(**expected)  # type: ignore[arg-type]  # names of fields


def test_every_option_is_tested_above() -> None:
    marks = test_every_option_means_what_it_says.pytestmark  # type: ignore[attr-defined]  # pytest's own
    tested = {word.partition("=")[0][: None if word.startswith("--") else 2] for words, _ in marks[0].args[1] for word in words}
    assert {option.key() for option in step_options.OPTIONS if not set(option.names) & tested} == {"env-file"}


def test_variables_say_what_the_command_line_does_not() -> None:
    environ = {"DOCKLESS_STEP_IMAGE": "a", "DOCKLESS_STEP_OPTIONS": "-e 'A=b c' --init --user=1 --image 'o'"}
    assert parse(environ=environ) == Asked(image="o", argv=("c",), env=(("A", "b c"),), init=True, user="1")
    assert parse("--image", "b", "--user", "2", environ=environ)[:6] == Asked(image="b", argv=("c",), env=(("A", "b c"),), user="2")[:6]


def test_image_of_a_variable_lets_the_command_begin_at_once() -> None:
    assert step_options.parse(["bash", "-e", "s"], {"DOCKLESS_STEP_IMAGE": "a"}).argv == ("bash", "-e", "s")
    assert step_options.parse(["a", "bash", "-e", "s"], {}).argv == ("bash", "-e", "s")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--service"], "option --service needs a value"),
        (["--services", "x"], "there is no option --services"),
        (["--entrypoint", "x"], "there is no option --entrypoint"),
        (["--tools", "all", "c"], "--tools all is not known"),
        (["--service", "=x", "i", "c"], "service '=x' cannot be used"),
        (["--service", "x=", "i", "c"], "service 'x=' cannot be used"),
        (["--service", "a", "--service", "b=a", "i", "c"], "two services are called a"),
        (["--network", "none", "--service", "a", "i", "c"], "without a network nobody reaches a service"),
        (["--image", "x"], "no command is given"),
        ([], "no command is given"),
    ],
)
def test_mistake_is_told(words: list[str], message: str) -> None:
    assert message in refuse(*words).message


def test_end_takes_the_script_that_a_shell_always_has() -> None:
    assert step_options.parse(["--end", "/script"], {}).end
    assert step_options.parse(["--end"], {}).end


def test_variable_with_an_open_quote_is_told() -> None:
    assert "dockless_step_options" in refuse("c", environ={"DOCKLESS_STEP_OPTIONS": "-e 'A"}).message.lower()

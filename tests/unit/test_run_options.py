"""The words after `dockless run`: as podman understands them, and with the nearest option for the rest."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors
from runner.cli import run_options
from runner.model import Limits, RunRequest


def parse(*words: str, environ: dict[str, str] | None = None) -> RunRequest:
    """Parse without a terminal, whatever the tests run on."""
    return run_options.parse(["-i", *words], environ or {})


def refuse(*words: str) -> errors.UserError:
    with pytest.raises(errors.UserError) as caught:
        parse(*words)
    assert caught.value.message.startswith("run: ")
    assert caught.value.hint
    return caught.value


def test_nothing_is_the_default_of_everything() -> None:
    assert parse() == RunRequest()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--image", "alpine"], {"image": "alpine"}),
        (["--image=alpine:3"], {"image": "alpine:3"}),
        (
            ["-e", "A=1", "--env", "B=2=3", "-eC=4", "-e=D=", "--env=E=5"],
            {"env": (("A", "1"), ("B", "2=3"), ("C", "4"), ("D", ""), ("E", "5"))},
        ),
        (["-v", "a:/b", "--volume=/c:/d:ro", "-v./e:/f"], {"volumes": ("a:/b", "/c:/d:ro", "./e:/f")}),
        (["-w", "/w"], {"cwd": "/w"}),
        (["--workdir=/w"], {"cwd": "/w"}),
        (["-u", "app:0"], {"user": "app:0"}),
        (["--user", "7"], {"user": "7"}),
        (["-u7"], {"user": "7"}),
        (["--network", "none"], {"network": "none"}),
        (["--network=default"], {"network": "default"}),
        (["--pull", "always"], {"pull": "always"}),
        (["--pull=never"], {"pull": "never"}),
        (["--pull=missing"], {"pull": "if-not-present"}),
        (["--pull=if-not-present"], {"pull": "if-not-present"}),
        (["-m", "512m"], {"limits": Limits(memory=512 * 1024**2)}),
        (["--memory=1g", "--cpus=1.5", "--pids=7"], {"limits": Limits(1024**3, 1.5, 7)}),
        (["--pids-limit", "9"], {"limits": Limits(pids=9)}),
        (["--entrypoint", "sh"], {"entrypoint": ("sh",)}),
        (["--entrypoint="], {"entrypoint": ("",)}),
        (["--entrypoint", ""], {"entrypoint": ("",)}),
        (["-h", "box"], {"hostname": "box"}),
        (["--hostname=box"], {"hostname": "box"}),
        (["--platform", "linux/arm64"], {"platform": "linux/arm64"}),
        (["--build-user", "team"], {"build_user": "team"}),
        (["--docker"], {"docker": True}),
        (["--init"], {"init": True}),
        (["--init=true"], {"init": True}),
        (["--init=false"], {}),
        (["-t"], {"terminal": True}),
        (["--tty"], {"terminal": True}),
        (["--rm", "--interactive"], {}),
    ],
)
def test_every_option_means_what_it_means_for_podman(words: list[str], expected: dict[str, object]) -> None:
    assert parse(*words) == RunRequest()._replace(**expected)  # type: ignore[arg-type]  # names of fields


def test_every_option_is_tested_above() -> None:
    marks = test_every_option_means_what_it_means_for_podman.pytestmark  # type: ignore[attr-defined]  # pytest's own
    tested = {word.partition("=")[0][: None if word.startswith("--") else 2] for words, _ in marks[0].args[1] for word in words}
    assert {name for option in run_options.OPTIONS for name in option.names} - tested == {"-i", "--env-file"}


@pytest.mark.parametrize("words", [["-it"], ["-ti"], ["-t", "-i"], ["-i", "--tty=true"], ["-it=true"]])
def test_switches_may_stand_together(words: list[str]) -> None:
    assert parse(*words).terminal


@pytest.mark.parametrize("words", [["-itv", "a:/b"], ["-itva:/b"], ["-tv=a:/b"], ["-iv", "a:/b", "-t"]])
def test_last_of_letters_that_stand_together_may_have_a_value(words: list[str]) -> None:
    found = parse(*words)
    assert (found.volumes, found.terminal) == (("a:/b",), True)


@pytest.mark.parametrize("words", [["-ix"], ["-tiq"], ["-tx=1"]])
def test_letters_that_stand_together_are_all_understood_or_refused(words: list[str]) -> None:
    assert "there is no option -" in refuse(*words).message


def test_last_value_of_an_option_counts() -> None:
    assert parse("--image", "a", "-w", "/1", "--workdir=/2", "--image=b") == RunRequest(image="b", cwd="/2")


@pytest.mark.parametrize(
    ("words", "image", "argv"),
    [
        (["--image", "i", "--", "c", "-x"], "i", ("c", "-x")),
        (["--image", "i", "c", "-x"], "i", ("c", "-x")),
        (["i", "c", "-e", "A=1"], "i", ("c", "-e", "A=1")),
        (["i"], "i", ()),
        (["--", "c"], "", ("c",)),
        (["--"], "", ()),
        (["--init", "--", "c", "--", "d"], "", ("c", "--", "d")),
        (["i", "--", "c"], "i", ("--", "c")),
        (["--image=i", "--", "--help"], "i", ("--help",)),
        (["i", "--image", "j"], "i", ("--image", "j")),
        (["-w", "/", "i", ""], "i", ("",)),
    ],
)
def test_command_begins_at_two_dashes_or_after_the_image(words: list[str], image: str, argv: tuple[str, ...]) -> None:
    found = parse(*words)
    assert (found.image, found.argv) == (image, argv)


@pytest.mark.parametrize(
    ("words", "wants"),
    [
        (["--help"], True), (["-it", "--help"], True), (["-e", "A", "--help", "i"], True), (["--image", "i", "--help", "--", "c"], True),
        (["i", "--help"], False), (["--", "--help"], False), (["i", "c", "--help"], False), (["--image", "--help", "c"], False),
        (["-e", "--help"], False), (["--bad", "--help"], False), (["-", "--help"], False), ([], False),
    ],
)  # fmt: skip
def test_help_is_asked_for_among_the_options_only(words: list[str], wants: bool) -> None:
    assert run_options.wants_help(words) is wants


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--imgae", "--image"),
        ("--volumes", "--volume"),
        ("--net", "--network"),
        ("--enviroment", "--env"),
        ("--entry-point=x", "--entrypoint"),
    ],
)
def test_misspelt_option_is_refused_with_the_nearest(word: str, nearest: str) -> None:
    error = refuse(word, "x")
    assert error.message == f"run: there is no option {word.partition('=')[0]}"
    assert error.hint == f"did you mean {nearest}?"


@pytest.mark.parametrize("word", ["--privileged", "-p", "-d", "--9", "---", "-=x"])
def test_option_that_is_near_nothing_is_refused_with_the_way_to_help(word: str) -> None:
    assert refuse(word).message == f"run: there is no option {word[: 2 if word[1] != '-' else None]}"


@pytest.mark.parametrize("word", [*(name for option in run_options.OPTIONS if option.value for name in option.names)])
def test_option_without_its_value_is_refused(word: str) -> None:
    error = refuse(word)
    assert error.message == f"run: option {word} needs a value"
    assert error.hint.startswith(f"write {word} ")


@pytest.mark.parametrize("word", ["--init=1", "--rm=", "--tty=yes", "-t=", "-i=x"])
def test_switch_with_a_value_is_refused(word: str) -> None:
    assert "takes no value" in refuse(word).message


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--network", "host"], "run: --network host is not known", "choose one of default, none"),
        (["--pull", "newer"], "run: --pull newer is not known", "choose one of always, if-not-present, missing, never"),
        (["--memory", "lots"], "run: --memory lots cannot be used", "write a size such as 512m or 2g"),
        (["--memory", "1g", "--cpus", "all"], "run: --cpus all cannot be used", "write a number of cores such as 1.5"),
        (["--memory", "1g", "--cpus", "2", "--pids=-1"], "run: --pids -1 cannot be used", "write a whole number above 0"),
        (["-e", "=1"], "run: '=1' is no environment variable", "write NAME=VALUE"),
        (["-e", ""], "run: '' is no environment variable", "write NAME=VALUE"),
        (["-e="], "run: '' is no environment variable", "write NAME=VALUE"),
    ],
)
def test_bad_value_is_refused_with_what_it_can_be(words: list[str], message: str, hint: str) -> None:
    error = refuse(*words)
    assert (error.message, error.hint) == (message, hint)


def test_variable_without_a_value_is_the_callers_or_left_out() -> None:
    environ = {"PASSED": "yes", "EMPTY": "", "OTHER": "no"}
    assert parse("-e", "PASSED", "-e", "EMPTY", "-e", "GONE", environ=environ).env == (("PASSED", "yes"), ("EMPTY", ""))


def test_variables_of_files_come_before_those_of_options(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("# a comment\n  # another\n\nA=1\n  B= 2 \nPASSED\nGONE\nQUOTED='x'\n", newline="\n")
    (tmp_path / "two").write_bytes("A=ü\u2028\x0b!\r\nC=\r\n".encode())
    found = parse("-e", "A=3", "--env-file", f"{tmp_path}/one", f"--env-file={tmp_path}/two", environ={"PASSED": "yes"})
    assert found.env == (
        ("A", "1"), ("B", " 2 "), ("PASSED", "yes"), ("QUOTED", "'x'"), ("A", "ü\u2028\x0b!"), ("C", ""), ("A", "3"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"A=\xff\n", "is not UTF-8"), (b"=x\n", "'=x' is no environment variable"), (b"A=\0\n", "is no environment variable")],
)
def test_file_of_variables_that_makes_no_sense_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(raw)
    assert message in refuse("--env-file", f"{tmp_path}/file").message


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file or directory"),
        ("directory", "not a regular file"),
        ("fifo", "not a regular file"),
        ("huge", "File too large"),
    ],
)
def test_file_of_variables_that_is_no_file_is_refused(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "file"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(b"#" * (1024**2 + 1))
    assert refuse("--env-file", str(path)).message == f"run: env file {path} cannot be read: {reason}"


def test_options_are_declared_once_and_explained() -> None:
    names = [name for option in run_options.OPTIONS for name in option.names]
    assert len(names) == len(set(names))
    assert all(option.help for option in run_options.OPTIONS)
    assert all(option.value for option in run_options.OPTIONS if option.many or option.choices)


WORDS = st.sampled_from([name for option in run_options.OPTIONS for name in option.names]) | st.sampled_from(
    ["--", "-", "--x", "-it", "-z=", "i"]
)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)  # what an argument can hold


@given(st.lists(WORDS | TEXT | st.builds("{}={}".format, WORDS, TEXT), max_size=6))
def test_whatever_is_typed_is_understood_or_refused(words: list[str]) -> None:
    run_options.wants_help(words)
    try:
        found = run_options.parse(words, {})
    except errors.UserError as e:
        assert e.message.startswith("run: ")
        assert e.hint
        return
    assert list(found.argv) == words[len(words) - len(found.argv) :]

"""What a person sees of the command line: help, completion, answers; and one sentence, one hint, one exit code for every mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runner import __version__
from runner.cli import commands, options, run_options, show, step_options
from tests.support.engine import Engine, Result

COMMANDS = (
    "build", "completion", "df", "doctor", "gc", "github", "gitlab", "images", "jenkins", "ps", "pull", "push", "rmi", "run", "setup",
    "step", "verify", "version",
)  # fmt: skip
VERBS = ("cleanup", "config", "prepare", "register-snippet", "run")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def fails(result: Result, *, code: int) -> tuple[str, str]:
    """Return the sentence and the hint of a failure, after checking that there is nothing else."""
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    found = re.fullmatch(r"(?:\x1b\[31;1m)?ERROR: ([^\n\x1b]+)(?:\x1b\[0;m)?\n\(([^\n]+)\)\n", result.err)
    assert found, result.err
    assert found[1][0] == found[1][0].lower() or found[1].startswith("JOB_")
    assert not found[1].endswith(".")
    return found[1], found[2]


def test_nothing_and_help_list_every_command(engine: Engine) -> None:
    for arguments in ([], ["--help"], ["--debug"]):
        result = engine.run(*arguments)
        assert (result.code, result.err) == (0, "")
        listed = re.findall(r"^  ([a-z-]+)  +\S", result.out.partition("Commands:\n")[2], re.MULTILINE)
        assert tuple(listed) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(engine: Engine, command: str) -> None:
    result = engine.run(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: dockless {command} ")
    assert len(result.out.splitlines()) > 3


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_gitlab_explains_itself(engine: Engine, verb: str) -> None:
    assert verb in engine.run("gitlab", "--help").out
    result = engine.run("gitlab", verb, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: dockless gitlab {verb} ")


def test_help_of_run_has_every_option_and_the_exit_codes(engine: Engine) -> None:
    text = engine.run("run", "--help").out
    names = [name for option in run_options.OPTIONS for name in option.names]
    assert [name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)] == []
    assert "125" in text


def test_help_makes_no_store(engine: Engine) -> None:
    engine.run("run", "--help")
    engine.run("version")
    assert not engine.state.exists()


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["imagse"], "dockless: there is no command imagse", "did you mean `dockless images`?"),
        (["Images"], "dockless: there is no command Images", "did you mean `dockless images`?"),
        (["docter"], "dockless: there is no command docter", "did you mean `dockless doctor`?"),
        (["xyzzy"], "dockless: there is no command xyzzy", "see `dockless --help`"),
        ([""], "dockless: there is no command ''", "see `dockless --help`"),
        (["gitlab", "prepar"], "dockless gitlab: there is no command prepar", "did you mean `dockless gitlab prepare`?"),
        (["gitlab", "xyzzy"], "dockless gitlab: there is no command xyzzy", "see `dockless gitlab --help`"),
        (["--Config", "x"], "there is no option --Config", "did you mean --config?"),
        (["--xyzzy"], "there is no option --xyzzy", "see `dockless --help`"),
        (["doctor", "--acount", "x"], "there is no option --acount", "did you mean --account?"),
        (["images", "--JSON"], "there is no option --JSON", "see `dockless images --help`"),
        (["--debug=yes", "images"], "option '--debug' does not take a value", "see `dockless --help`"),
        (["--state-dir"], "option '--state-dir' requires an argument", "see `dockless --help`"),
        (["images", "Extra"], "got unexpected extra argument (Extra)", "see `dockless images --help`"),
        (["version", "x", "y"], "got unexpected extra arguments (x y)", "see `dockless version --help`"),
        (["pull"], "missing argument 'IMAGE...'", "see `dockless pull --help`"),
        (["rmi"], "missing argument 'IMAGE...'", "see `dockless rmi --help`"),
        (["build", "."], "missing option '-t' / '--tag'", "see `dockless build --help`"),
        (["push"], "missing argument 'IMAGE'", "see `dockless push --help`"),
        (["completion"], "missing argument 'SHELL': choose from bash, zsh, fish", "see `dockless completion --help`"),
        (
            ["completion", "TCSH"],
            "invalid value for 'SHELL': 'TCSH' is not one of 'bash', 'zsh', 'fish'",
            "see `dockless completion --help`",
        ),
        (["gitlab", "cleanup", "x"], "got unexpected extra argument (x)", "see `dockless gitlab cleanup --help`"),
        (["gitlab", "register-snippet", "x"], "got unexpected extra argument (x)", "see `dockless gitlab register-snippet --help`"),
    ],
)
def test_mistyped_command_line_is_refused_in_the_words_that_were_typed(
    engine: Engine, arguments: list[str], message: str, hint: str
) -> None:
    assert fails(engine.run(*arguments), code=1) == (message, hint)
    assert not engine.state.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pull", ""], 1, "bad image name ''"),
        (["pull", "Upper"], 1, "bad image name 'Upper': a repository has no upper-case letters"),
        (["pull", "a b"], 1, "bad image name 'a b'"),
        (["rmi", ""], 1, "bad image name ''"),
        (["rmi", "alpine"], 1, "image alpine is not in the store"),
        (["doctor", "--account", "daemon"], 1, "doctor: account daemon can only be checked by itself or by root"),
        (["run", "--imgae", "x"], 125, "run: there is no option --imgae"),
        (["run", "--image"], 125, "run: option --image needs a value"),
        (["run", "--memory", "lots", "--", "true"], 125, "run: --memory lots cannot be used"),
        (["run", "-v", "x", "--", "true"], 125, "volume 'x' cannot be used: the target is not an absolute path"),
        (["run", "-v", "/etc:/e", "--", "true"], 125, "volume '/etc:/e' cannot be used"),
        (["run", "--hostname", "a b", "--", "true"], 125, "host name 'a b' cannot be used"),
        (["run", "--hostname", "x" * 65, "--", "true"], 125, "host name 'xxx"),
        (["run", "--build-user", "../x", "--", "true"], 125, "build user '../x' cannot be used"),
        (["run", "--pull", "never", "alpine"], 125, 'image alpine is not stored here, and the pull policy is "never"'),
        (["run", "Upper"], 125, "bad image name 'Upper'"),
        (["run", "-u", "nobody-here", "--", "true"], 125, "user 'nobody-here' does not exist in this image"),
        (["run", "-w", "relative", "--", "true"], 125, "working directory relative is not an absolute path"),
        (["run", "--entrypoint", ""], 125, "image toolbox says no command, and none was given"),
        (["step", "--", "true"], 125, "step: GITHUB_RUN_ID is not set: this is no step of a GitHub Actions job"),
        (["step", "--image", "x"], 125, "step: no command is given"),
        (["step", "--memory", "lots", "--", "true"], 125, "step: --memory lots cannot be used"),
        (["run", "--", b"caf\xe9".decode(errors="surrogateescape")], 125, "run: an argument is not UTF-8"),
        (["gitlab", "run"], 1, "run takes a script and a stage"),
        (["gitlab", "run", "/dev/null", "build_script"], 2, "job (no key) was not prepared on this machine"),
        (["gitlab", "run", "/no/such/script", "build_script"], 2, "script /no/such/script cannot be read: No such file or directory"),
    ],
)
def test_mistake_is_told_in_one_sentence_with_a_hint(engine: Engine, arguments: list[str], code: int, message: str) -> None:
    told, _ = fails(engine.run(*arguments), code=code)
    assert told.startswith(message)
    assert engine.jobs() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["images"], ["ps"], ["gc"], ["df"], ["rmi", "x"], ["pull", "x"], ["run", "--", "true"], ["step", "--", "true"], ["step", "--end"],
        ["gitlab", "config"],
    ],
)  # fmt: skip
def test_broken_configuration_stops_every_command_the_same_way(engine: Engine, arguments: list[str]) -> None:
    engine.config.write_text("imagse: {}\n")
    code = {"run": 125, "step": 125, "gitlab": 2}.get(arguments[0], 1)
    assert fails(engine.run(*arguments), code=code) == (f"configuration {engine.config}: imagse is not a setting", "did you mean images?")
    assert not engine.state.exists()


@pytest.mark.parametrize("arguments", [["images"], ["ps"], ["rmi", "x"], ["run", "--", "true"], ["step", "--", "true"]])
def test_root_is_refused_by_every_command(engine: Engine, arguments: list[str]) -> None:
    argv = ["unshare", "--user", "--map-root-user", *engine.argv(*arguments)]
    done = subprocess.run(argv, env=engine.environ(), capture_output=True, text=True, timeout=60, check=False)
    message, hint = fails(Result(done.returncode, done.stdout, done.stderr), code=125 if arguments[0] in ("run", "step") else 1)
    assert message == "dockless does not run as root"
    assert "runuser -u ACCOUNT" in hint and "dockless doctor" in hint


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["images"], 1), (["run", "--", "true"], 125), (["step", "--", "true"], 125), (["gitlab", "config"], 2),
        (["gitlab", "prepare"], 2), (["gitlab", "cleanup"], 2),
    ],
)  # fmt: skip
def test_user_without_an_account_is_refused(engine: Engine, arguments: list[str], code: int) -> None:
    response = engine.home / "response.json"
    response.write_text("{}")
    argv = ["unshare", "--user", "--map-user=4711", *engine.argv(*arguments)]
    environ = engine.environ({"JOB_RESPONSE_FILE": str(response)})
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    message, hint = fails(Result(done.returncode, done.stdout, done.stderr), code=code)
    assert message == "user 4711 has no account"
    assert "dockless doctor" in hint


def test_store_of_another_version_is_refused(engine: Engine) -> None:
    engine.state.mkdir()
    (engine.state / "format").write_text("99\n")
    message, hint = fails(engine.run("images"), code=1)
    assert message == f"state directory {engine.state} has format 99, this version of dockless knows 1"
    assert "--state-dir" in hint


def test_answers_of_an_empty_store(engine: Engine) -> None:
    assert engine.run("images") == Result(0, "NAME  ID  PLATFORM  SIZE\n", "")
    assert engine.run("ps").out.split() == ["JOB", "BUILD", "USER", "SLOT", "KEEPER", "ALIVE", "CREATED", "CONTAINERS"]
    assert json.loads(engine.run("images", "--json").out) == json.loads(engine.run("ps", "--json").out) == []


def test_version_is_told_by_command_and_option(engine: Engine) -> None:
    assert engine.run("version") == engine.run("--version") == Result(0, f"dockless {__version__}\n", "")


def test_running_container_is_listed_until_it_ends(engine: Engine) -> None:
    process = engine.start("run", "--network", "none", "--build-user", "team", "--", "sh", "-c", "echo ready; read line")
    assert process.stdout and process.stdout.readline() == "ready\n"
    rows = json.loads(engine.run("ps", "--json").out)
    table = engine.run("ps").out.splitlines()
    process.communicate("end\n", timeout=30)
    assert [(row["build_user"], row["alive"], row["containers"]) for row in rows] == [("team", True, "main")]
    assert rows[0]["job"] in table[1] and "s ago" in table[1]
    assert json.loads(engine.run("ps", "--json").out) == []


def test_snippet_names_this_program_and_this_configuration(engine: Engine) -> None:
    text = engine.run("gitlab", "register-snippet").out
    assert 'executor = "custom"' in text
    assert text.count(json.dumps(str(engine.config))) == 4
    assert [verb for verb in ("config", "prepare", "run", "cleanup") if f'"gitlab", "{verb}"]' not in text] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_program(engine: Engine, shell: str) -> None:
    result = engine.run("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert "_DOCKLESS_COMPLETE" in result.out
    assert f"{shell}_complete" in result.out


def complete(engine: Engine, line: str) -> list[str]:
    """Return what bash would offer for a line whose last word is being typed."""
    words = {"_DOCKLESS_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "runner"], env=engine.environ(words), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [offer.partition(",")[2] for offer in done.stdout.split()]


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("dockless im", ["images"]),
        ("dockless r", ["rmi", "run"]),
        ("dockless gitlab re", ["register-snippet"]),
        ("dockless completion ", ["bash", "zsh", "fish"]),
        ("dockless run --im", ["--image"]),
        ("dockless run --network ", ["default", "none"]),
        ("dockless run --pull n", ["never"]),
        ("dockless images --j", ["--json"]),
        ("dockless xyzzy zz", []),
    ],
)
def test_completion_offers_what_fits(engine: Engine, line: str, offers: list[str]) -> None:
    assert complete(engine, line) == offers


def test_completion_of_run_offers_every_long_option(engine: Engine) -> None:
    long = {name for option in run_options.OPTIONS for name in option.names if name.startswith("--")}
    assert long <= set(complete(engine, "dockless run --"))


@pytest.mark.parametrize("table", [run_options.TABLE, step_options.TABLE], ids=lambda table: table.command)
def test_hot_command_is_declared_to_click_as_it_is_parsed(table: options.Table) -> None:
    declared = {name: parameter for parameter in commands.dockless.commands[table.command].params for name in parameter.opts}
    for option in table.options:
        assert all(declared[name].is_flag is not bool(option.value) for name in option.names)  # type: ignore[attr-defined]  # options only
        assert all(declared[name].multiple is option.many for name in option.names)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5_000_000_000, "5.0 GB"), (7_000_000_000_000, "7.0 TB")],
)
def test_sizes_have_a_unit(count: int, text: str) -> None:
    assert show.size(count) == text


def test_table_is_as_wide_as_its_cells() -> None:
    rows = [["a", "long cell", ""], ["longer", "b", "x"]]
    assert show.table(rows, ("name", "build_user", "c")) == "NAME    BUILD USER  C\na       long cell\nlonger  b           x\n"

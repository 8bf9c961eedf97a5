"""The only place that turns an exception into an exit code: one failure has a number for shells, for podman's users, and for GitLab."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import __main__ as program
from runner import errors, log
from runner.sandbox.crun import StartFailure
from tests.support.engine import TREE

COMMANDS = (["images"], ["run", "--", "true"], ["gitlab", "prepare"], ["gitlab", "config"])
CODES = [  # as the four commands above report it
    (errors.UserError("what was wrong", "do this"), (1, 125, 1, 2)),
    (errors.InfraError("what was wrong", "do this"), (2, 125, 2, 2)),
    (errors.Temporary("what was wrong", "do this"), (2, 125, 2, 2)),
    (errors.Bug("what was wrong"), (3, 125, 2, 2)),
    (StartFailure("what was wrong", "do this", 127), (127, 127, 127, 127)),
    (ValueError("what was wrong"), (3, 125, 2, 2)),
    (OSError(errno.EINVAL, "what was wrong"), (3, 125, 2, 2)),
    (OSError(errno.ENOSPC, "what was wrong", "/srv/store"), (2, 125, 2, 2)),
    (OSError(errno.EDQUOT, "what was wrong"), (2, 125, 2, 2)),
    (OSError(errno.EIO, "what was wrong"), (2, 125, 2, 2)),
    (ChildProcessError(errno.ECHILD, "what was wrong (exit -9)"), (2, 125, 2, 2)),
    (ChildProcessError(errno.ECHILD, "what was wrong (exit 0)"), (3, 125, 2, 2)),
]


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what a command changes for the rest of its process from the other tests."""
    for name in ("DOCKLESS_DEBUG", "DOCKLESS_CONFIG", "DOCKLESS_STATE", "BUILD_FAILURE_EXIT_CODE", "SYSTEM_FAILURE_EXIT_CODE"):
        monkeypatch.setenv(name, "")
    stdout = os.dup(1)
    yield
    os.dup2(stdout, 1)
    os.close(stdout)
    log.configure(colour=False, debug=False)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return what makes every command raise: the classes are the contract here, not the many ways to them."""

    def install(error: BaseException) -> None:
        def dispatch(argv: list[str]) -> int:
            raise error

        monkeypatch.setattr(program, "_dispatch", dispatch)

    return install


@pytest.mark.parametrize(("error", "codes"), CODES, ids=[f"{type(error).__name__}-{number}" for number, (error, _) in enumerate(CODES)])
def test_each_class_of_errors_has_its_exit_code(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], error: Exception, codes: tuple[int, ...]
) -> None:
    raising(error)
    assert tuple(program.run(command) for command in COMMANDS) == codes
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert told.out == ""
    assert "what was wrong" in lines[0]
    assert re.fullmatch(r"ERROR: .+", lines[0])
    assert re.fullmatch(r"\(.+\)", lines[1])
    assert len(lines) == 2 * len(COMMANDS)


@pytest.mark.parametrize(("error", "code"), [(CODES[0][0], 71), (CODES[1][0], 72), (CODES[3][0], 72), (CODES[5][0], 72), (CODES[7][0], 72)])
def test_gitlab_gets_the_codes_that_it_announced(
    raising: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    monkeypatch.setenv("BUILD_FAILURE_EXIT_CODE", "71")
    monkeypatch.setenv("SYSTEM_FAILURE_EXIT_CODE", "72")
    raising(error)
    assert program.run(["gitlab", "run", "script", "stage"]) == code
    assert program.run(["gitlab", "config"]) == 72


def test_interrupt_has_the_code_of_shells(raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    raising(KeyboardInterrupt())
    assert [program.run(command) for command in COMMANDS] == [130, 130, 2, 2]
    assert capsys.readouterr().err == ""


def test_only_bugs_are_called_bugs(raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    raising(errors.Bug("what was wrong"))
    program.run(["images"])
    raising(TypeError("what was wrong"))
    program.run(["images"])
    raising(errors.InfraError("what was wrong"))
    program.run(["images"])
    assert [line for line in capsys.readouterr().err.splitlines() if "bug" in line or "internal" in line] == [
        "ERROR: internal error: what was wrong",
        "(this is a bug in dockless: please report it with the output of --debug)",
        "ERROR: internal error: TypeError: what was wrong",
        "(this is a bug in dockless: please report it with the output of --debug)",
    ]


def test_full_disk_is_told_with_its_file_and_a_way_out(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/Store/blob"))
    program.run(["images"])
    assert capsys.readouterr().err.splitlines() == [
        "ERROR: /srv/Store/blob: No space left on device",
        "(make room: `dockless gc` removes what no image needs)",
    ]


@pytest.mark.parametrize("error", [ValueError("what was wrong"), OSError(errno.EIO, "what was wrong")])
def test_debug_shows_the_traceback_of_what_nobody_expected(raising: Callable[[BaseException], None], error: Exception) -> None:
    raising(error)
    with pytest.raises(type(error)):
        program.run(["--debug", "images"])


def start(*arguments: str, stdout: int = subprocess.PIPE, cwd: Path | None = None, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the program in a process of its own."""
    own = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1", **environ}
    return subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        env=own,
        cwd=cwd,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


ANSWERS = [["--version"], ["version"], ["--help"], ["images"], ["ps", "--json"], ["completion", "bash"], ["gitlab", "register-snippet"]]


@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_reader_that_has_gone_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = start("--state-dir", str(tmp_path), *arguments, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_answer_that_cannot_be_written_is_a_failure(arguments: list[str], tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = start("--state-dir", str(tmp_path), *arguments, stdout=full)
    os.close(full)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "ERROR: nothing can be written: No space left on device"
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed_are_not_missed(closing: str, tmp_path: Path) -> None:
    script = f'"$@" {closing}'
    argv = ["sh", "-c", script, "sh", sys.executable, "-m", "runner", "--state-dir", str(tmp_path), "images", "--json"]
    done = subprocess.run(argv, env={"PYTHONPATH": str(TREE)}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["format"]
    assert (tmp_path / "format").read_text() == "1\n"


def test_global_options_stand_before_the_command_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    for options in (["--config", "config.yaml", "--state-dir", "store"], ["--state-dir=store", "--config=config.yaml", "--debug"]):
        done = start(*options, "images", cwd=tmp_path)
        assert done.returncode == 0
        assert (tmp_path / "store/format").exists()


def test_two_dashes_end_the_global_options(tmp_path: Path) -> None:
    assert start("--", "version").stdout.startswith("dockless ")
    assert start("--state-dir", str(tmp_path), "--", "run", "--nonsense").returncode == 125


@pytest.mark.parametrize("option", ["--config", "--state-dir"])
def test_empty_path_is_refused_and_not_the_working_directory(option: str, tmp_path: Path) -> None:
    for arguments in ([option, ""], [f"{option}="]):
        done = start(*arguments, "images", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == f"ERROR: option {option} is empty"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [(["images"], 1), (["run", "--", "true"], 125), (["gitlab", "prepare"], 71), (["gitlab", "config"], 72), ([], 1)],
)
def test_empty_path_has_the_exit_code_of_the_command_that_follows(command: list[str], code: int, tmp_path: Path) -> None:
    for options in (["--state-dir", ""], ["--config="], ["--state-dir=", "--debug"]):
        done = start(*options, *command, cwd=tmp_path, BUILD_FAILURE_EXIT_CODE="71", SYSTEM_FAILURE_EXIT_CODE="72")
        assert done.returncode == code
        assert done.stderr.splitlines()[0].endswith(" is empty")
        assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_version_wins_over_what_follows() -> None:
    assert start("--version", "nonsense").returncode == 0

"""`dockless run` as people know it from podman and docker."""

import os
import pty
import signal
import time
from pathlib import Path

import pytest

from tests.support.engine import Engine, processes_of, wait_until


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_exit_code_is_the_commands_own(engine: Engine, code: int) -> None:
    assert engine.run("run", "--", "sh", "-c", f"exit {code}").code == code


def test_killed_command_has_128_and_the_signal(engine: Engine) -> None:
    assert engine.run("run", "--", "sh", "-c", "sh -c 'kill -9 $$'; exit $?").code == 137


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("no-such-program", 127, "no-such-program: program not found in the container"),
        ("/no/such/program", 127, "/no/such/program: program not found in the container"),
        ("", 127, "the command is empty"),
        ("/etc/passwd", 126, "/etc/passwd: program cannot be executed"),
        ("/usr", 126, "/usr: program cannot be executed: it is not a file"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--init"]])
def test_command_that_cannot_start_has_the_code_of_podman_and_one_message(
    engine: Engine, options: list[str], command: str, code: int, words: str
) -> None:
    result = engine.run("run", *options, "--", command)
    assert (result.code, result.out) == (code, "")
    message, hint = result.err.splitlines()
    assert message == f"ERROR: {words}"
    assert hint.startswith("(")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("#!/bin/sh\necho $0\n", 0, ""),
        ("#!/no/shell\n", 127, "its interpreter '/no/shell' is not in the container"),
        ("#!/bin/sh\r\n", 127, "its interpreter '/bin/sh\\r' is not in the container"),
        ("echo fine\n", 126, "program cannot be executed: wrong format"),
    ],
)
def test_program_of_a_volume_is_started_or_told_in_one_message(engine: Engine, tmp_path: Path, text: str, code: int, words: str) -> None:
    (tmp_path / "program").write_text(text)
    (tmp_path / "program").chmod(0o755)
    result = engine.run("run", "-v", f"{tmp_path}:/var/run/w", "--", "/run/w/program")  # /var/run is a link
    assert result.code == code
    assert result.out == ("/run/w/program\n" if code == 0 else "")
    assert [line for line in result.err.splitlines() if not line.startswith("(")] == ([f"ERROR: /run/w/program: {words}"] if words else [])


def test_stdin_and_stdout_are_passed_byte_for_byte(engine: Engine) -> None:
    text = "".join(chr(32 + number % 90) for number in range(300_000))
    assert engine.run("run", "--", "cat", stdin=text).out == text


def test_stderr_is_not_stdout(engine: Engine) -> None:
    result = engine.run("run", "--", "sh", "-c", "echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n")


def test_environment_is_the_callers_only_by_name(engine: Engine) -> None:
    result = engine.run("run", "-e", "A=1=2", "-e", "PASSED", "--", "env", env={"PASSED": "yes", "SECRET_OF_THE_HOST": "no"})
    lines = result.out.splitlines()
    assert "A=1=2" in lines
    assert "PASSED=yes" in lines
    assert "HOME=/root" in lines
    assert "SECRET_OF_THE_HOST" not in result.out


def test_term_reaches_the_command_and_its_answer_counts(engine: Engine) -> None:
    process = engine.start("run", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9
    process.communicate()


def test_killed_caller_leaves_no_process_and_the_next_run_removes_the_rest(engine: Engine) -> None:
    process = engine.start("run", "--", "sh", "-c", "echo ready; sleep 4711")
    assert process.stdout and process.stdout.readline() == "ready\n"
    assert processes_of(engine.state)
    process.kill()
    process.communicate()
    assert wait_until(lambda: not processes_of(engine.state), 15)
    assert engine.jobs()
    assert engine.run("run", "--", "true").code == 0
    assert engine.jobs() == []


def test_terminal_is_one_inside(engine: Engine) -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.execve("/usr/bin/env", ["env", *engine.argv("run", "-t", "--", "sh", "-c", "tty; stty size; echo done")], engine.environ())
    shown = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # EIO: the other side has gone
            break
        shown += chunk
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"/dev/pts/0" in shown or b"/dev/console" in shown
    assert b"done" in shown


def test_files_written_to_a_bound_directory_belong_to_the_caller(engine: Engine, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    result = engine.run("run", "-v", f"{work}:/w", "-w", "/w", "--", "sh", "-c", "id -u; mkdir d; echo x > d/f; chmod 600 d/f")
    assert result.out == "0\n", result.err
    assert (work / "d/f").read_text() == "x\n"
    assert (work / "d/f").stat().st_uid == os.getuid()


def test_other_user_also_writes_as_the_caller(engine: Engine, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    result = engine.run("run", "-v", f"{work}:/w", "-u", "1234:1234", "--", "sh", "-c", "id -u; echo x > /w/f")
    assert result.out == "1234\n", result.err
    assert (work / "f").stat().st_uid == os.getuid()


def test_read_only_volume_refuses_writes(engine: Engine, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    result = engine.run("run", "-v", f"{work}:/w:ro", "--", "sh", "-c", "echo x > /w/f || mount -o remount,rw /w")
    assert result.code != 0
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("source", ["/", "/etc", "/proc", "/dev/null", "./../../../../../../etc", "/no/such/path"])
def test_volume_of_the_host_itself_is_refused_with_a_reason(engine: Engine, source: str) -> None:
    result = engine.run("run", "-v", f"{source}:/x", "--", "true")
    assert result.code == 125
    assert "cannot be used: " in result.err
    assert "\n(" in result.err


def test_named_volume_outlives_the_container(engine: Engine) -> None:
    assert engine.run("run", "-v", "cache:/c", "--", "sh", "-c", "echo kept > /c/f").code == 0
    assert engine.run("run", "-v", "cache:/c", "--", "cat", "/c/f").out == "kept\n"
    assert engine.run("run", "-v", "cache:/c", "--build-user", "other", "--", "cat", "/c/f").code != 0


def test_without_network_there_is_only_loopback(engine: Engine) -> None:
    result = engine.run("run", "--network", "none", "--", "ls", "/sys/class/net")
    assert result.out.split() == ["lo"], result.err


def test_state_directory_of_another_format_is_refused(engine: Engine) -> None:
    assert engine.run("run", "--", "true").code == 0
    (engine.state / "format").write_text("99\n")
    result = engine.run("run", "--", "true")
    assert result.code == 125
    assert "format 99" in result.err


def test_limit_that_cannot_be_kept_is_one_warning_not_silence(engine: Engine) -> None:
    result = engine.run("run", "--memory", "64m", "--pids", "100", "--", "true")
    assert result.code == 0
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        assert result.err.count("WARNING") == 1, result.err

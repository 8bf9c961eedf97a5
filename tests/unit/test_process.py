"""The door through which programs and child processes start."""

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors
from runner.kernel import process
from tests.support.engine import children


def sh(script: str, **options: Any) -> process.Completed:
    return process.run(["sh", "-c", script], **options)


def test_run_returns_both_streams_and_the_code() -> None:
    done = sh("echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_a_program_that_fails_says_how_and_its_last_words() -> None:
    with pytest.raises(process.Failed, match="sh exited with 7: the reason") as caught:
        sh("echo before >&2; echo the reason >&2; exit 7")
    assert caught.value.completed.returncode == 7


def test_a_program_that_is_killed_says_by_which_signal() -> None:
    with pytest.raises(process.Failed, match="killed by signal 9"):
        sh("kill -9 $$")


def test_input_arrives_whole_and_ends() -> None:
    data = os.urandom(1024**2)
    assert process.run(["cat"], input=data).stdout == data


def test_a_program_that_reads_nothing_does_not_hold_us_up() -> None:
    assert sh("exec 0<&-; echo done", input=b"x" * 1024**2).stdout == b"done\n"


def test_without_input_stdin_is_at_its_end() -> None:
    assert sh("cat; echo end").stdout == b"end\n"


def test_output_over_the_limit_is_dropped_and_the_program_still_ends() -> None:
    done = sh("head -c 1000000 /dev/zero", limit_bytes=1000)
    assert len(done.stdout) == 1000


def test_the_environment_is_exactly_what_is_given() -> None:
    assert process.run(["env"], env={"A": "1"}).stdout == b"A=1\n"


def test_the_default_environment_has_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_JOB_TOKEN", "secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    names = {line.partition(b"=")[0] for line in process.run(["env"]).stdout.splitlines()}
    assert names == {b"PATH", b"LC_ALL", b"HOME"}


def test_programs_are_not_looked_up_on_our_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made-up").write_text("#!/bin/sh\n")
    (tmp_path / "made-up").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="not installed"):
        process.run(["made-up"])
    assert process.run([str(tmp_path / "made-up")]).returncode == 0


def test_programs_get_no_descriptor_but_the_three(tmp_path: Path) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)  # as one that a careless parent left us
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_RDWR)
    try:
        only = [b"0", b"1", b"2", b"3"]  # 3 is ls reading the directory
        assert sorted(process.run(["ls", "/proc/self/fd"]).stdout.split()) == only
        process.run_leaving_children(["ls", "/proc/self/fd"], output=out)
        assert sorted((tmp_path / "out").read_bytes().split()) == only
    finally:
        os.close(fd)
        os.close(out)


def test_programs_start_with_default_signals() -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        text = process.run(["cat", "/proc/self/status"]).stdout.decode()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    masks = dict(line.split(":\t") for line in text.splitlines() if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) == 0
    assert not int(masks["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1))


@pytest.mark.parametrize(
    "script", ["sleep 60", "while :; do echo talking; done", "exec >&- 2>&-; sleep 60"], ids=["silent", "talking", "mute"]
)
def test_a_program_past_its_deadline_is_killed(tmp_path: Path, script: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        sh(f"echo $$ > {tmp_path}/pid; {script}", timeout_s=0.3)
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_program_that_ends_in_time_is_left_alone() -> None:
    assert sh("exec >&- 2>&-; sleep 0.1; exit 4", timeout_s=30, check=False).returncode == 4


def test_run_leaks_no_descriptor_and_no_child(tmp_path: Path) -> None:
    before, others = os.listdir("/proc/self/fd"), children()
    sh("exit 1", check=False)
    with pytest.raises(FileNotFoundError):
        process.run(["no-such-program"])
    with pytest.raises(TimeoutError):
        sh("sleep 60", timeout_s=0.05)
    (tmp_path / "not-a-program").write_bytes(b"\0")
    (tmp_path / "not-a-program").chmod(0o755)
    with pytest.raises(OSError, match="Exec format"):
        process.run([str(tmp_path / "not-a-program")])
    assert (os.listdir("/proc/self/fd"), children()) == (before, others)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_display_is_what_a_shell_reads_back(argv: list[str]) -> None:
    assert shlex.split(process.display(argv)) == argv


def test_a_program_that_leaves_children_does_not_hold_the_caller(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_RDWR)
    began = time.monotonic()
    code = process.run_leaving_children(["sh", "-c", "sleep 30 & echo $!; exit 5"], output=out)
    assert code == 5
    assert time.monotonic() - began < 10
    os.close(out)
    os.kill(int((tmp_path / "out").read_text()), signal.SIGKILL)


def test_fork_call_returns_what_the_function_returns() -> None:
    assert process.fork_call(lambda: {"pid_differs": os.getpid() != parent, "big": "x" * 300_000}) == {
        "pid_differs": True,
        "big": "x" * 300_000,
    }


parent = os.getpid()


class NearerError(errors.UserError):
    """A class that the parent does not look for in errors."""


def throw(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("kind", [errors.UserError, errors.InfraError, errors.Temporary, errors.Bug])
def test_our_errors_cross_with_their_hint(kind: type[errors.RunnerError]) -> None:
    with pytest.raises(errors.RunnerError) as caught:
        process.fork_call(throw(kind("message", "hint")))
    assert (type(caught.value), caught.value.message, caught.value.hint) == (kind, "message", "hint")


def test_a_subclass_of_ours_crosses_as_the_nearest_class_that_is_known() -> None:
    with pytest.raises(errors.UserError, match="message") as caught:
        process.fork_call(throw(NearerError("message", "hint")))
    assert type(caught.value) is errors.UserError


def test_an_os_error_crosses_with_number_and_path() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        process.fork_call(throw(FileNotFoundError(errno.ENOENT, "No such file", "/x")))
    assert caught.value.filename == "/x"
    with pytest.raises(OSError, match="only words") as caught_words:
        process.fork_call(throw(OSError("only words")))
    assert caught_words.value.errno == errno.EIO


def test_anything_else_is_a_bug() -> None:
    with pytest.raises(errors.Bug, match="ZeroDivisionError"):
        process.fork_call(lambda: 1 // 0)


def test_a_child_that_dies_is_an_error_and_not_an_answer() -> None:
    with pytest.raises(ChildProcessError, match="without an answer"):
        process.fork_call(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_child_that_dies_in_the_middle_of_its_answer_is_the_same_error() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b'["ok", [1, 2')
        os._exit(0)
    os.close(writer)
    with pytest.raises(ChildProcessError, match="middle"):
        process.receive(pid, reader)


def test_the_child_runs_none_of_its_parents_exit_handlers() -> None:
    program = """
import atexit
from runner.kernel import process
atexit.register(lambda: print("handler"))
try:
    process.fork_call(lambda: (_ for _ in ()).throw(SystemExit(3)))
except Exception as e:
    print(type(e).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "Bug\nhandler\n"


def test_pid_and_start_time_name_a_process_until_it_ends() -> None:
    child = subprocess.Popen(["sleep", "60"])
    started = process.start_time(child.pid)
    assert process.is_alive(child.pid, started)
    assert not process.is_alive(child.pid, started + 1)
    pidfd = process.open_pidfd(child.pid, started)
    with pytest.raises(ProcessLookupError):
        process.open_pidfd(child.pid, started + 1)
    assert not process.wait_pidfd(pidfd, 0.01)
    child.kill()
    assert process.wait_pidfd(pidfd, 10)
    assert not process.is_alive(child.pid, started)  # a zombie has ended
    child.wait()
    os.close(pidfd)
    assert not process.is_alive(child.pid, started)
    with pytest.raises(ProcessLookupError):
        process.start_time(child.pid)


def test_a_name_with_brackets_and_spaces_does_not_confuse_the_start_time(tmp_path: Path) -> None:
    link = tmp_path / ") 1 S (x"
    link.symlink_to("/usr/bin/sleep")
    child = subprocess.Popen([str(link), "60"])
    try:
        assert process.start_time(child.pid) > 1000
        assert process.is_alive(child.pid, process.start_time(child.pid))
    finally:
        child.kill()
        child.wait()


_PARENT = """
import os, time
from runner.kernel import process
def child():
    print(os.getpid(), flush=True)
    time.sleep(60)
process.fork_call(child)
"""


def test_forked_child_ends_with_its_parent() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], env=environment, stdout=subprocess.PIPE)
    assert parent.stdout
    with parent.stdout as out:
        child = int(out.readline())
        started = process.start_time(child)
        parent.kill()
        parent.wait()
        assert out.read() == b""  # nobody has it open any more
    assert not process.is_alive(child, started)


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_foreground_program_has_our_output_the_given_input_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], script: str, code: int
) -> None:
    fd = os.memfd_create("input")
    os.write(fd, b"from memory\n")
    os.set_inheritable(fd, True)
    words = f"cat /dev/stdin; cat /dev/stdin; env; ls /proc/self/fd >&2; {script}"
    assert process.run_in_foreground(["sh", "-c", words], env={"ONLY": "this"}, stdin=fd) == code
    os.close(fd)
    out, err = capfd.readouterr()
    assert out.startswith("from memory\nfrom memory\n")
    assert "ONLY=this\n" in out
    assert "PATH=" not in out
    assert err.split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_foreground_program_that_is_missing_is_told() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program is not installed"):
        process.run_in_foreground(["no-such-program"], env={}, stdin=0)

"""The one door through which other programs and child processes start.

Programs get an explicit environment and no descriptor but the three standard ones; they are looked up on TRUSTED_PATH only, since a CI
job may have changed ours. Built on posix_spawn(3) and fork(2), since importing the subprocess module costs as much as a whole step.
"""

from __future__ import annotations

import errno
import os
import select
import time

from runner import log
from runner.kernel import answers, signals, syscalls
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

TRUSTED_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Completed(NamedTuple):
    """A program that ended: `returncode` is negative for a signal."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes


class Failed(OSError):
    """A program exited with another code than 0; `completed` says which, the text has its last words."""

    def __init__(self, completed: Completed) -> None:
        how = f"exited with {completed.returncode}" if completed.returncode >= 0 else f"killed by signal {-completed.returncode}"
        lines = completed.stderr.decode(errors="replace").strip().splitlines()
        # ip and nft end with where in their input they were, not with what was wrong
        words = next((line for line in lines if "error:" in line.lower()), lines[-1] if lines else "no message")
        super().__init__(errno.EIO, f"{os.path.basename(completed.argv[0])} {how}: {words}")
        self.completed = completed


def find(program: str) -> str:
    """Return the absolute path of a program on TRUSTED_PATH; FileNotFoundError if it is not installed."""
    if program.startswith("/"):
        if os.access(program, os.X_OK):
            return program
    else:
        for directory in TRUSTED_PATH.split(":"):
            path = f"{directory}/{program}"
            if os.access(path, os.X_OK):
                return path
    raise FileNotFoundError(errno.ENOENT, f"{program} is not installed", program)


def minimal_env(**more: str) -> dict[str, str]:
    """Return the environment that programs get: a trusted PATH, a neutral locale, and `more`."""
    return {"PATH": TRUSTED_PATH, "LC_ALL": "C.UTF-8", "HOME": "/", **more}


def display(argv: Sequence[str]) -> str:
    """Return argv as a line that a shell would read the same way."""
    return " ".join(a if a and all(c.isalnum() or c in "@%+=:,./-_" for c in a) else "'" + a.replace("'", "'\"'\"'") + "'" for a in argv)


class Running:
    """A program that was started by `start`; `finish` has to follow."""

    def __init__(self, argv: Sequence[str], pid: int, stdin: int, rest: memoryview, stdout: int, stderr: int) -> None:
        self._argv, self._pid = tuple(argv), pid
        self._stdin, self._rest = stdin, rest
        self._out, self._err = stdout, stderr

    def finish(
        self,
        *,
        input: bytes = b"",  # noqa: A002 - the name that subprocess.run gave it
        timeout_s: float | None = None,
        check: bool = True,
        limit_bytes: int = 16 * 1024**2,
    ) -> Completed:
        """Give the program the rest of its input, wait for its end, and return what it printed; raises as `run`. Blocks. Call once."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        streams: dict[int, bytearray] = {self._out: bytearray(), self._err: bytearray()}
        try:
            _converse(self._stdin, memoryview(bytes(self._rest) + input), streams, deadline=deadline, limit_bytes=limit_bytes)
            if deadline is not None:
                _await_end(self._pid, deadline)
        except BaseException:
            os.kill(self._pid, signals.SIGKILL)
            os.waitpid(self._pid, 0)
            raise
        finally:
            os.close(self._out)
            os.close(self._err)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        completed = Completed(self._argv, code, bytes(streams[self._out]), bytes(streams[self._err]))
        if check and code != 0:
            raise Failed(completed)
        return completed


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    input: bytes = b"",  # noqa: A002 - the name that subprocess.run gave it
    timeout_s: float | None = None,
    check: bool = True,
    limit_bytes: int = 16 * 1024**2,
) -> Completed:
    """Run a program to its end and return what it printed (at most `limit_bytes` a stream, the rest is dropped).

    Raises FileNotFoundError when it is missing, Failed when `check` and it exits with another code than 0, TimeoutError
    (after SIGKILL) at the deadline. Blocks.
    """
    return start(argv, env=env, input=input).finish(timeout_s=timeout_s, check=check, limit_bytes=limit_bytes)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    input: bytes | None = b"",  # noqa: A002 - the name that subprocess.run gave it
) -> Running:
    """Start a program that works on its input while we do something else; FileNotFoundError when it is missing.

    With None as input it waits for what `Running.finish` gives it.
    """
    path = find(argv[0])
    syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)  # what whoever started us left open is not for others
    if log.is_debug():
        log.debug(f"+ {display(argv)}")
    stdin_r, stdin_w = os.pipe()
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, stdin_r, 0), (os.POSIX_SPAWN_DUP2, out_w, 1), (os.POSIX_SPAWN_DUP2, err_w, 2)]
        pid = os.posix_spawn(
            path,
            list(argv),
            dict(env if env is not None else minimal_env()),
            file_actions=actions,
            setsigmask=(),
            setsigdef=[signals.SIGPIPE, signals.SIGCHLD],
        )
    except BaseException:
        for fd in (stdin_w, out_r, err_r):
            os.close(fd)
        raise
    finally:
        for fd in (stdin_r, out_w, err_w):
            os.close(fd)
    os.set_blocking(stdin_w, False)
    rest = _write_some(stdin_w, memoryview(input or b""))
    if input is not None and not rest:
        os.close(stdin_w)  # many programs begin when they have read all
        stdin_w = -1
    return Running(argv, pid, stdin_w, rest, out_r, err_r)


def _write_some(fd: int, data: memoryview) -> memoryview:
    """Write as much as the pipe takes without blocking, and return the rest; a reader that has gone wants nothing more."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BlockingIOError:
        pass
    except BrokenPipeError:
        return data[:0]
    return data


def _await_end(pid: int, deadline: float) -> None:
    """Wait for a child that has closed its output; TimeoutError at the deadline. It stays to be reaped."""
    pidfd = os.pidfd_open(pid)
    try:
        if not wait_pidfd(pidfd, max(0.0, deadline - time.monotonic())):
            raise _too_late()
    finally:
        os.close(pidfd)


def _too_late() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, "program did not end in time")


def run_leaving_children(argv: Sequence[str], *, output: int = -1, stdin: int = -1) -> int:
    """Run a program that leaves processes behind, in a session of its own, and return its exit code.

    Its output, and theirs, goes to the descriptor `output` (-1: nowhere), never to a pipe that somebody waits for. It reads from the
    descriptor `stdin` (-1: from nothing).
    """
    path = find(argv[0])
    syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)  # what whoever started us left open is not for others
    if log.is_debug():
        log.debug(f"+ {display(argv)}")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    out = output if output >= 0 else null
    try:
        read = stdin if stdin >= 0 else null
        actions = [(os.POSIX_SPAWN_DUP2, read, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
        pid = os.posix_spawn(
            path, list(argv), minimal_env(), file_actions=actions, setsid=True, setsigmask=(), setsigdef=[signals.SIGPIPE, signals.SIGCHLD]
        )
    finally:
        os.close(null)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_in_foreground(argv: Sequence[str], *, env: Mapping[str, str], stdin: int) -> int:
    """Run a program that talks to the caller's own stdout and stderr, and return its exit code, 128 + number for a signal. Blocks.

    `stdin` becomes its standard input. It ends with us, whatever ends us. FileNotFoundError when it is missing.
    """
    path = find(argv[0])
    if log.is_debug():
        log.debug(f"+ {display(argv)}")
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with(parent_pid)
            os.dup2(stdin, 0)
            close_others(keep=(0, 1, 2))
            signals.signal(signals.SIGPIPE, signals.SIG_DFL)
            os.execve(path, list(argv), dict(env))
        finally:
            os._exit(127)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _converse(stdin: int, rest: memoryview, streams: dict[int, bytearray], *, deadline: float | None, limit_bytes: int) -> None:
    """Feed `rest` and collect the output until every stream is closed. Closes `stdin`, which does not block; -1 is closed already."""
    poll = select.poll()
    open_fds = set(streams)
    for fd in open_fds:
        poll.register(fd, select.POLLIN)
    if rest:
        poll.register(stdin, select.POLLOUT)
    elif stdin >= 0:
        os.close(stdin)
        stdin = -1
    try:
        while open_fds:
            timeout_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            events = poll.poll(timeout_ms)
            if deadline is not None and time.monotonic() >= deadline:  # also for one that never stops talking
                raise _too_late()
            for fd, event in events:
                if fd == stdin:
                    try:
                        rest = rest[os.write(fd, rest) :]
                    except BrokenPipeError:
                        rest = rest[len(rest) :]
                    if not rest:
                        poll.unregister(fd)
                        os.close(fd)
                        stdin = -1
                elif event:
                    chunk = os.read(fd, 65536)
                    if not chunk:
                        poll.unregister(fd)
                        open_fds.discard(fd)
                    elif len(streams[fd]) < limit_bytes:
                        streams[fd] += chunk[: limit_bytes - len(streams[fd])]
    finally:
        if stdin >= 0:
            os.close(stdin)


def close_others(*, keep: tuple[int, ...]) -> None:
    """Close every descriptor but some: in a forked child, what its parent waits to see closed."""
    low = 0
    for fd in sorted(keep):
        if fd > low:
            syscalls.close_range(low, fd - 1)
        low = fd + 1
    syscalls.close_range(low)


def fork_call(function: Callable[[], Any]) -> Any:
    """Run `function` in a forked child and return its (JSON-able) result; what it raises is raised here.

    OSError keeps its errno, a RunnerError its hint and its class in `errors` (a subclass of elsewhere becomes the nearest one there);
    anything else becomes a Bug. The child never returns, runs no exit handlers, and ends with us.
    """
    reader, writer = os.pipe()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with(parent_pid)
        os.close(reader)
        answer_and_exit(writer, function)
    os.close(writer)
    return receive(pid, reader)


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread of `parent_pid` that forked it ends; a change of credentials undoes that.

    A signal to our group may come while the parent forks: only the parent gets it then, and nobody would end the child.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
    if os.getppid() not in (parent_pid, 0):  # 0: the parent is outside of our PID namespace
        os._exit(1)


def answer_and_exit(writer: int, function: Callable[[], Any]) -> NoReturn:
    """In a forked child: send what `function` returns or raises to `receive` in the parent, and end."""
    code = 0
    try:
        data = memoryview(answers.encode(function))
        while data:
            data = data[os.write(writer, data) :]
    except BaseException:
        code = 1
    finally:
        os._exit(code)


def receive(pid: int, reader: int) -> Any:
    """Read a child's answer, reap the child, and return or raise. Closes `reader`."""
    with open(reader, "rb") as file:
        raw = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return answers.decode(raw, f" (exit {code})")


_PF_EXITING = 0x4  # include/linux/sched.h


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/<pid>/stat from the third ("state") on; ProcessLookupError if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as e:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from e


def start_time(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot (proc(5), field 22); ProcessLookupError if it is gone.

    With the pid it names one process for ever, even after the number is used again.
    """
    return int(_stat(pid)[19])


def parent(pid: int) -> int:
    """Return the pid of a process's parent, 0 if that is outside of our PID namespace; ProcessLookupError if the process is gone."""
    return int(_stat(pid)[1])


def has_ended(pid: int, started: int) -> bool:
    """Tell whether a process of whatever user has surely ended: /proc may hide it (hidepid), a signal's permission check does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        return start_time(pid) != started
    except ProcessLookupError:
        return False


def is_alive(pid: int, started: int) -> bool:
    """Tell whether the process that had this pid and start time still runs; one that is being torn down does not."""
    try:
        fields = _stat(pid)
    except ProcessLookupError:
        return False
    return int(fields[19]) == started and fields[0] not in (b"Z", b"X") and not int(fields[6]) & _PF_EXITING


def open_pidfd(pid: int, started: int) -> int:
    """Return a pidfd of exactly that process, which may be ending; ProcessLookupError if it has ended."""
    fd = os.pidfd_open(pid)
    try:
        if start_time(pid) == started:
            return fd
    except ProcessLookupError:
        pass
    os.close(fd)
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def wait_pidfd(pidfd: int, timeout_s: float) -> bool:
    """Wait until the process of a pidfd has ended; False at the deadline."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))

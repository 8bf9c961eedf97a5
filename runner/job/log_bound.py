"""A bound on what containers print into the files that the job keeps of it.

A container writes into a pipe, and the smallest programs that there are copy it: cat, which may make files up to the bound only
(RLIMIT_FSIZE), and after that another one that drops the rest. So the bound is exact, whoever writes is never held up, and nobody has to
look. The pair weighs a few hundred kilobytes and ends with its container.

The log file is locked (flock) as long as something may still come.
"""

from __future__ import annotations

import fcntl
import os
import time

from runner.kernel import process, signals, syscalls

_BLOCK_BYTES = 512  # of `ulimit -f` (POSIX)
# a constant: sizes and words come as arguments. cat fails with EFBIG, as SIGXFSZ is ignored, and what it has read then is lost
_COPY = """trap '' XFSZ; (ulimit -f "$1"; exec cat) || { printf '%s\n' "$2"; exec cat >/dev/null; }"""


def pipe(log_fd: int, limit_bytes: int) -> int:
    """Return a descriptor to write to what ends up in the file `log_fd`, up to some bytes (0: no bound), as long as the job lives.

    The caller is in the job's PID namespace, and closes both.
    """
    if not limit_bytes:
        return os.dup(log_fd)
    fcntl.flock(log_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the descriptors that the two programs have
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.fchmod(writer, 0o666)  # a program may open its /dev/stdout again; only who has the pipe can do that
        blocks = max(1, limit_bytes // _BLOCK_BYTES)
        words = f"\n[dockless: {limit_bytes} bytes were printed, the rest is dropped: limits.log]"
        _start_orphan(["sh", "-c", _COPY, "log", str(blocks), words], stdin=reader, output=log_fd)
    finally:
        os.close(reader)
    return writer


def _start_orphan(argv: list[str], *, stdin: int, output: int) -> None:
    """Start a program between two descriptors, which nobody waits for: it becomes the keeper's, where the kernel reaps it."""
    path = process.find(argv[0])
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                null = os.open(os.devnull, os.O_RDWR)
                high = [os.dup(fd) for fd in (stdin, output, null)]  # none is overwritten before it is where it should be
                for target, fd in enumerate(high):
                    os.dup2(fd, target)
                syscalls.close_range(3)
                signals.pthread_sigmask(signals.SIG_SETMASK, ())
                signals.signal(signals.SIGPIPE, signals.SIG_DFL)
                os.execve(path, argv, process.minimal_env())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def wait(log_fd: int, *, timeout_s: float = 5.0) -> None:
    """Wait until all that an ended container has printed is in its file."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            fcntl.flock(log_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.005)

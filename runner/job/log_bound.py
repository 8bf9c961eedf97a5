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
    """Start a program between two descriptors, which nobody waits for: our callers end or become crun, and then it is the keeper's."""
    syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        places = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate((stdin, output, null))]
        os.posix_spawn(
            process.find(argv[0]), argv, process.minimal_env(), file_actions=places, setsid=True, setsigmask=(), setsigdef=[signals.SIGPIPE]
        )
    finally:
        os.close(null)


def wait(log_fd: int, *, timeout_s: float = 5.0) -> None:
    """Wait until all that an ended container has printed is in its file."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            fcntl.flock(log_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.005)

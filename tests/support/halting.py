"""Stopping a program at a chosen system call: what is done to it then happens at that point of its work, on every machine.

strace stops it with SIGSTOP and watches from a process of its own, so the program is the child of whoever has started it.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

_QUIET = ("strace", "-D", "-qq")
_STOPPED = b"--- stopped by SIGSTOP ---"


class Point(NamedTuple):
    """The n-th call of one system call."""

    call: str
    number: int


def traced(argv: Sequence[str], trace: Path) -> list[str]:
    """Return a command line that writes down the system calls of a program, not those of its children."""
    return [*_QUIET, "-o", str(trace), *argv]


def points(trace: Path, *, since: str, count: int) -> list[Point]:
    """Choose points at even distances from the first call that names `since` to the last one."""
    seen: Counter[str] = Counter()
    found: list[Point] = []
    begun = False
    for line in trace.read_text(errors="replace").splitlines():
        name = line.partition("(")[0]
        begun = begun or (since in line and name != "execve")
        if name.isidentifier() and name not in ("exit_group", "execve"):
            seen[name] += 1
            if begun:
                found.append(Point(name, seen[name]))
    assert len(found) >= count, f"only {len(found)} system calls"
    return [found[int((number + 0.5) * len(found) / count)] for number in range(count)]


def stopping(argv: Sequence[str], point: Point, trace: Path) -> list[str]:
    """Return a command line whose program stops at a point; `trace` will tell of it."""
    inject = f"inject={point.call}:signal=STOP:when={point.number}"
    return [*_QUIET, "-o", str(trace), "-e", f"trace={point.call}", "-e", inject, *argv]


def wait_for_stop(process: "Popen[bytes]", trace: Path, *, timeout_s: float = 60.0) -> bool:
    """Wait until a program has stopped at its point; False when it has ended without."""
    deadline = time.monotonic() + timeout_s
    # not its state in /proc: a program that is traced stops for a moment at every call
    while not (trace.exists() and _STOPPED in trace.read_bytes()):
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the program neither stops nor ends"
        time.sleep(0.01)
    return True


def let_go(process: "Popen[bytes]") -> None:
    """Let a program that has stopped go on, if it still is there."""
    try:
        os.kill(process.pid, signal.SIGCONT)
    except ProcessLookupError:
        pass

"""The guard of a step: crun's parent, which ends all that crun started when the process that waits for the step is killed.

crun alone could end with its caller (PR_SET_PDEATHSIG). What it started would run on, and keep open the pipes of a stage that is over; for
some milliseconds nothing but its descent says that it belongs to the step.
"""

from __future__ import annotations

import os
import select

from runner.kernel import process, signals, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def start(become: Callable[[], NoReturn]) -> int:
    """Fork a process that calls `become`, under a guard; returns the guard's pid, to be waited for: it ends as that process does.

    The guard holds none of the caller's files.
    """
    caller = os.pidfd_open(os.getpid())
    try:
        pid = os.fork()
        if pid == 0:
            _guard(caller, become)
    finally:
        os.close(caller)
    return pid


def _guard(caller: int, become: Callable[[], NoReturn]) -> NoReturn:
    code = 126
    try:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        child = os.fork()
        if child == 0:
            become()
        os.setsid()  # a signal to the caller's group must not end us with it
        os.dup2(caller, 0)
        syscalls.close_range(1)
        pidfd = os.pidfd_open(child)
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        if pidfd in {fd for fd, _ in poll.poll()}:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            _end_children()
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _end_children() -> None:
    """Kill and reap every child, and those that become ours when their parents end."""
    try:
        while True:
            for child in _children():
                os.kill(child, signals.SIGKILL)
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _children() -> list[int]:
    """Return our children; they cannot be gone before we have waited for them."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and process.parent(int(name)) == os.getpid():
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found

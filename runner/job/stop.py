"""Signals for a step that runs: every process is asked to end, PID 1 last, because with it the kernel ends all others.

docker's executor asks all but PID 1, the youngest first, and waits for each (ContainerSigTermScriptForLinux); then docker stops PID 1.
"""

from __future__ import annotations

import errno
import os
import time

from runner.kernel import process, signals, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ASK_AGAIN_S = 0.02


def send(target: int, number: int) -> None:
    """Signal the step's PID 1, which is `target` in the job's PID namespace; nothing happens if it is gone or 0."""
    if target:
        _inside(lambda: os.kill(target, number))


def terminate(target: int, *, patience_s: float) -> None:
    """Send SIGTERM to every process of the step, to PID 1 once the others have ended or `patience_s` is over. Blocks until then.

    Nothing happens if the step is gone. PID 1 stands still meanwhile: a script goes on when what it waits for has ended, and would take
    the others with it before they have done what they do on SIGTERM.
    """
    _inside(lambda: _terminate(target, patience_s))


def kill(target: int) -> None:
    """Kill the step's first process, and all others of its PID namespace but that one's PID 1; nothing happens if it is gone or 0."""
    if target:
        _inside(lambda: _kill(target))


def _kill(target: int) -> None:
    fd = os.open(f"/proc/{target}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    os.kill(target, signals.SIGKILL)
    syscalls.setns(fd, syscalls.CLONE_NEWPID)
    process.fork_call(lambda: _kill_all(signals.SIGKILL))


def _inside(function: Callable[[], None]) -> None:
    """Run something in a child, which is in the job's PID namespace as we are not; a job that ends under it is fine."""
    try:
        process.fork_call(function)
    except OSError as e:
        # ENOMEM is what fork(2) says in a PID namespace whose PID 1 has just ended
        if e.errno not in (errno.ENOENT, errno.ESRCH, errno.ECHILD, errno.ENOMEM):
            raise


def _terminate(target: int, patience_s: float) -> None:
    namespace = f"/proc/{target}/ns/pid"
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    os.kill(target, signals.SIGSTOP)
    try:
        others = _others(target, os.stat(namespace).st_ino)
        syscalls.setns(fd, syscalls.CLONE_NEWPID)
        process.fork_call(lambda: _kill_all(signals.SIGTERM))
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(process.is_alive(*other) for other in others):
            time.sleep(_ASK_AGAIN_S)
    finally:
        os.kill(target, signals.SIGTERM)
        os.kill(target, signals.SIGCONT)


def _others(target: int, namespace: int) -> list[tuple[int, int]]:
    """Return the processes that share PID 1's namespace, by pid and start time."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(name) != target and os.stat(f"/proc/{name}/ns/pid").st_ino == namespace:
                found.append((int(name), process.start_time(int(name))))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _kill_all(number: int) -> None:
    """Signal everyone in our PID namespace but its PID 1 and us, at once: nobody can start a process between (kill(2))."""
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        pass

"""What happens to a job in the middle of it: the CI system takes it back, or something kills a process of it."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from runner import errors, paths
from runner.job import state
from tests.soak.jobs import MARK, Job, Workshop

_PATIENCE_S = 60.0


def _executor(shop: Workshop, asked: Job) -> list[int]:
    """Return the program that the job's CI system waits for right now: a child of this process that has the job's mark.

    But for GitLab's cleanup and docker rm: one that is killed at its very start leaves the job until its runner has ended, which is this
    process here (docs/limits.md), or the container (docs/jenkins.md). tests/faults kills cleanup at every boundary, and looks at what is
    there when the runner has ended.
    """
    mark = f"{MARK}={asked.number}".encode()
    return [pid for pid in _children().get(os.getpid(), []) if mark in _environ(pid) and not {b"cleanup", b"rm"} & set(_arguments(pid))]


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _keeper(shop: Workshop, asked: Job) -> list[int]:
    """Return the keeper of the job."""
    if not asked.key_prefix:
        return []
    store = paths.Store(str(shop.engine.state))
    found = []
    for key in state.keys(store):
        if key.startswith(asked.key_prefix):
            try:
                current = state.load(store, key)
            except errors.RunnerError:
                continue
            if current is not None and current.keeper.pid and state.is_alive(store, current):
                found.append(current.keeper.pid)
    return found


def _init(shop: Workshop, asked: Job) -> list[int]:
    """Return the first process of one of the job's containers: below the keeper, and number 1 of a namespace of its own."""
    children, found = _children(), []
    waiting = _keeper(shop, asked)
    while waiting:
        pid = waiting.pop()
        for child in children.get(pid, []):
            waiting.append(child)
            if _own_numbers(child)[-1:] == ["1"] and len(_own_numbers(child)) > 2:
                found.append(child)
    return found


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                found.setdefault(int(fields[1]), []).append(int(name))
    return found


def _own_numbers(pid: int) -> list[str]:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return []
    return next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


Find = Callable[[Workshop, Job], list[int]]

# who gets which signal; None is the button in the CI system
ATTACKS: dict[str, tuple[Find, int] | None] = {
    "cancelled": None,
    "aborted": None,
    "executor terminated": (_executor, signal.SIGTERM),
    "executor interrupted": (_executor, signal.SIGINT),
    "executor killed": (_executor, signal.SIGKILL),
    "keeper killed": (_keeper, signal.SIGKILL),
    "init killed": (_init, signal.SIGKILL),
}


def choose(asked: Job) -> str:
    """Return the name of an attack that this kind of job can have."""
    names = list(ATTACKS)
    if not asked.kind.startswith("gitlab"):
        names = names[2:]
    return asked.rng.choice(names[:3] if asked.kind == "gc" else names)


def strike(name: str, shop: Workshop, asked: Job, *, ended: threading.Event) -> bool:
    """Wait for a random moment of the job, attack it, and tell whether there was somebody to attack before it ended."""
    if ended.wait(asked.rng.random() * 1.5):
        return False
    attack = ATTACKS[name]
    deadline = time.monotonic() + _PATIENCE_S
    while not ended.is_set() and time.monotonic() < deadline:
        if attack is None:
            if asked.replay is not None:
                (asked.replay.cancel if name == "cancelled" else asked.replay.abort)()
                return True
        else:
            find, number = attack
            for pid in find(shop, asked)[:1]:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
                return True
        time.sleep(0.01)
    return False

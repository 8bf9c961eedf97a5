"""A second start of an agent ends the first: Jenkins starts a command again when it has lost the channel, whatever holds its other end."""

from __future__ import annotations

import time

from runner import errors, log
from runner.job import cleanup, state
from runner.kernel import locks, process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.job.surroundings import Surroundings

_PATIENCE_S = 10.0  # after SIGTERM; the agent itself has less
_DEADLINE_S = 60.0
_PAUSE_S = 0.05


def take_over(key: str, around: Surroundings, *, name: str) -> None:
    """End the agent that has the key, if there is one, and remove what it leaves. Blocks until it has gone.

    Also one that is being made. InfraError if it does not end.
    """
    store = around.store
    deadline = time.monotonic() + _DEADLINE_S
    told = False
    while locks.is_held(store.job_lock(key)):
        current = _load(around, key)
        if current and current.owner != (0, 0):
            if not told:
                log.say(f"agent {name} is running already (process {current.owner[0]}): it is ended, and started anew")
                told = True
            _end(*current.owner)
        if time.monotonic() > deadline:
            raise errors.InfraError(f"agent {name} runs already and does not end", "`dockless ps` names its keeper")
        time.sleep(_PAUSE_S)  # its lock goes with it; or it is so new that there is no record yet
    cleanup.cleanup(store, key, around.account)


def _load(around: Surroundings, key: str) -> state.JobState | None:
    try:
        return state.load(around.store, key)
    except errors.RunnerError as e:
        log.debug(f"{e}")
        return None


def _end(pid: int, started: int) -> None:
    """Ask a process to end, and kill it when it does not: the kernel then ends its container."""
    try:
        fd = process.open_pidfd(pid, started)
    except ProcessLookupError:
        return
    with open(fd, "rb", buffering=0):
        try:
            signals.pidfd_send_signal(fd, signals.SIGTERM)
            if not process.wait_pidfd(fd, _PATIENCE_S):
                signals.pidfd_send_signal(fd, signals.SIGKILL)
                process.wait_pidfd(fd, _PATIENCE_S)
        except ProcessLookupError:
            pass

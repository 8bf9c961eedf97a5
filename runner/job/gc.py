"""Collecting what crashes left: jobs whose keeper is dead."""

import os

from runner import errors, log, paths
from runner.job import cleanup, state
from runner.kernel import locks
from runner.model import Account


def reap(store: paths.Store, account: Account, *, but: str = "") -> list[str]:
    """End every job whose keeper is dead and that nobody is making or ending; return their keys. Never blocks, never raises for one job."""
    reaped = []
    for key in state.keys(store):
        if key == but:
            continue
        fd = locks.try_take(store.job_lock(key))
        if fd is None:
            continue  # somebody is at it
        try:
            if _reap_one(store, key, account):
                reaped.append(key)
        except errors.RunnerError as e:
            log.warn(f"leftovers of job {key} stay for now: {e}")
        finally:
            os.close(fd)
    return reaped


def _reap_one(store: paths.Store, key: str, account: Account) -> bool:
    try:
        current = state.load(store, key)
    except errors.RunnerError:
        current = None
    if current and current.keeper.pid and current.keeper.is_alive():
        return False
    log.debug(f"removing what is left of job {key}")
    cleanup.end(store, key, current, account)
    return True

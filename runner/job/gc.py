"""Collecting what crashes left: jobs whose keeper is dead, or whose owner is."""

import os

from runner import errors, log, paths
from runner.job import cleanup, keeper, state
from runner.kernel import files, locks
from runner.model import Account


def reap(store: paths.Store, account: Account, *, but: str = "") -> list[str]:
    """End every job whose keeper or owner is dead and that nobody is making or ending; return their keys.

    Never blocks, never raises for one job.
    """
    reaped = []
    for key in sorted({*state.keys(store), *state.lock_keys(store)}):
        if key == but:
            continue
        try:
            if reap_one(store, key, account):
                reaped.append(key)
        except (errors.RunnerError, OSError) as e:
            log.warn(f"leftovers of job {key} stay for now: {e}")
    return reaped


def remove_idle_locks(store: paths.Store) -> None:
    """Remove the locks of jobs that never were, or have gone. Never blocks."""
    for key in state.lock_keys(store):
        if not os.path.isdir(store.job(key)):
            fd = locks.try_take(store.job_lock(key))
            if fd is not None:
                files.remove_tree(store.job_lock(key))
                os.close(fd)


def reap_one(store: paths.Store, key: str, account: Account) -> bool:
    """End one job if it is dead and nobody is at it; tell whether it has gone. Never blocks; RunnerError or OSError."""
    fd = locks.try_take(store.job_lock(key))
    if fd is None:
        return False  # somebody is at it
    try:
        if os.path.isdir(store.job(key)):
            return _reap_one(store, key, account)
        files.remove_tree(store.job_lock(key))  # whoever took it died before there was a job
        return False
    finally:
        os.close(fd)


def _reap_one(store: paths.Store, key: str, account: Account) -> bool:
    try:
        current = state.load(store, key)
    except errors.UserError:
        if keeper.find(key):
            return False  # another version's job, which that version will end
        current = None
    except errors.RunnerError:
        current = None  # no step of it can be run any more, so nobody misses it
    if current and current.keeper.pid and current.keeper.is_alive() and not state.is_orphaned(current):
        return False
    log.debug(f"removing what is left of job {key}")
    cleanup.end(store, key, current, account)
    return True

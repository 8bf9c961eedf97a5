"""Ending a job: kill its keeper, remove its files, keep its caches. Idempotent, and works without state."""

import os

from runner import errors, log, paths
from runner.job import keeper, limits, state
from runner.job.state import JobState
from runner.kernel import files, locks, userns
from runner.model import Account, BuildUser
from runner.sandbox import build_users


def cleanup(store: paths.Store, key: str, account: Account, *, attempt: str = "") -> None:
    """End the job `key`, whatever state it is in; nothing happens if there is none, or if it belongs to another attempt.

    Goes on past errors and raises the first. Waits for a process that is making or ending the job.
    """
    if not os.path.isdir(store.job(key)):
        return
    with locks.hold(store.job_lock(key), timeout_s=120):
        try:
            current = state.load(store, key)
        except errors.RunnerError as e:
            log.debug(f"{e}")
            current = None
        if current and attempt and current.facts.get("attempt") != attempt:
            log.debug(f"job {key} belongs to another attempt: left alone")
            return
        end(store, key, current, account)


def end(store: paths.Store, key: str, current: JobState | None, account: Account) -> None:
    """End a job whose lock the caller holds; without its record (`current` None) what belongs to it is found by its key."""
    first: errors.RunnerError | None = None
    namespace = keeper.open_user_namespace(current.keeper) if current else None
    for each in keeper.find(key) if current is None else [current.keeper]:
        try:
            keeper.kill(each)
        except errors.RunnerError as e:
            first = e
    limits.remove(limits.directory(key) if current is None else current.cgroup)
    try:
        remove_files(store, key, current.build_user if current else None, account, namespace=namespace)
    except errors.RunnerError as e:
        first = first or e
    finally:
        if namespace is not None:
            os.close(namespace)
    if first:
        raise first


def remove_files(store: paths.Store, key: str, user: BuildUser | None, account: Account, *, namespace: int | None = None) -> None:
    """Remove a job's directory and its lock file; without a build user whatever any of the account's has written there.

    `namespace` is the job's own user namespace, where it is still to be had: it spares making another one.
    """
    directory = store.job(key)
    why: OSError | None = None
    try:
        if os.path.isdir(directory):
            # work/ of an overlay and what containers wrote belong to the build user: only its namespace may remove them
            id_map = user.keeper_map(account) if user else build_users.every_map(account)
            try:
                if namespace is not None:
                    userns.call_within(namespace, lambda: files.remove_tree(directory))
                else:
                    userns.call(id_map, lambda: files.remove_tree(directory))
            except OSError as e:  # a machine that cannot map ids has not let any container write, and the next line does it all
                why = e
        files.remove_tree(directory)
        files.remove_tree(store.job_lock(key))
    except OSError as e:
        raise errors.InfraError(f"cannot remove {directory}: {(why or e).strerror}", "run `dockless doctor`") from e

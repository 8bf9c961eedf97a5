"""Giving slices of ids back: a build user that owns nothing on the disk any more needs none.

A slice that somebody else gets must own no file: what the next tenant's processes may write would be in the hands of the last one's.
"""

import os

from runner import errors, log, paths
from runner.job import state
from runner.kernel import files, locks, userns
from runner.model import Account, BuildUser
from runner.sandbox import build_users


def release_idle(store: paths.Store, account: Account) -> list[str]:
    """Give back the leases of build users without jobs, volumes, storage and unpacked layers, and return their names. Idempotent."""
    with locks.hold(store.lock):
        busy = _with_jobs(store)
        if busy is None:
            return []
        released = [
            user.name for user in build_users.every(store, account) if user.name not in busy and _owns_nothing(store, account, user)
        ]  # fmt: skip
        build_users.release(store, released)
    for name in released:
        log.debug(f"build user {name} owns nothing any more: its ids are free")
    return released


def _with_jobs(store: paths.Store) -> set[str] | None:
    """Return the build users of all jobs, dead ones and those that are only about to be made included; None if it cannot be said.

    A job that is being made has written its build user into its lock before it looks for the lease.
    """
    found: set[str] = set()
    for key in state.lock_keys(store):
        path = store.job_lock(key)
        if locks.is_held(path):
            try:
                name, written, _ = files.read(path).decode(errors="replace").partition("\n")
            except FileNotFoundError:
                continue  # the job has ended just now
            if not written:
                return None
            found.add(name)
    for key in state.keys(store):
        try:
            job = state.load(store, key)
        except errors.RunnerError:
            return None
        if job is not None:
            found.add(job.build_user.name)
        elif not locks.is_held(store.job_lock(key)):
            return None  # a dead job of nobody knows whom: the reaper comes first
    return found


def _owns_nothing(store: paths.Store, account: Account, user: BuildUser) -> bool:
    if user.name.startswith("("):
        return False  # not a trust domain: dockless itself owns files by these ids
    if not all(_remove_empty(f"{directory}/{user.name}") for directory in (store.volumes, store.storage)):
        return False
    return all(_remove_empty_map(store, account, name) for name in _maps_of(store, user))


def _remove_empty(directory: str) -> bool:
    """Remove a build user's directory of volumes or storage if there is none in it; tell whether it has gone."""
    for parent, names, _ in os.walk(directory):
        if names and os.path.dirname(parent) == directory:
            return False
    files.remove_tree(directory)
    return True


def _maps_of(store: paths.Store, user: BuildUser) -> list[str]:
    """Return the id maps with this slice for which layers have been unpacked, by the name that layers.map_name gives them."""
    try:
        names = os.listdir(store.layers)
    except FileNotFoundError:
        return []
    first = f"s{user.uid_start}"
    return [name for name in names if name.startswith(first) and not name[len(first) :][:1].isdigit() and not name.endswith(".lock")]


def _remove_empty_map(store: paths.Store, account: Account, name: str) -> bool:
    """Remove the directory of a map that has no layers; tell whether it has gone."""
    fd = locks.try_take(store.layer_map_lock(name))
    if fd is None:
        return False
    try:
        directory = store.layer_map(name)
        if set(os.listdir(directory)) - {"map.json", "empty"}:
            return False
        userns.call(build_users.every_map(account), lambda: files.remove_tree(directory))
        files.remove_tree(store.layer_map_lock(name))
    finally:
        os.close(fd)
    return True

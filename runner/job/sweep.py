"""Carrying out a plan of `job.gc_plan`, one deletion after another, each judged again under the locks of what it removes."""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator

from runner import config, errors, log, paths
from runner.image import blobs, images, layer_names, layer_store, settling
from runner.job import disk_usage, gc, gc_plan, inventory, last_use, leases, live
from runner.job.gc_plan import Deletion, Kind
from runner.job.surroundings import Surroundings
from runner.kernel import files, locks, userns
from runner.model import Account
from runner.sandbox import build_users

Report = Callable[[Deletion, int], None]


def collect(around: Surroundings, limits: config.Gc, *, report: Report, wait: bool = True) -> bool:
    """Plan, remove what the plan says, and give back the leases of build users that own nothing any more. Safe beside pulls and jobs.

    `report` hears of each deletion and how many bytes it freed, nothing of those that turned out to be in use. One process does this at a
    time: the next one waits, or (`wait` False) returns False. Goes on past errors and raises the first, as an InfraError.
    """
    fd = locks.try_take(around.store.gc_lock)
    if fd is None:
        if not wait:
            return False
        log.say("Waiting for another `dockless gc` to end ...")
        fd = locks.take(around.store.gc_lock)
    try:
        try:
            carry_out(plan(around, limits), around, report=report)
        finally:
            leases.release_idle(around.store, around.account)
    finally:
        os.close(fd)
    return True


def plan(around: Surroundings, limits: config.Gc) -> tuple[Deletion, ...]:
    """Return what `collect` would remove now."""
    found = inventory.take(around.store, around.account)
    return gc_plan.plan(found, limits, disk_usage.of(around.store), now=time.time())


def carry_out(deletions: Iterable[Deletion], around: Surroundings, *, report: Report) -> None:
    """Remove what a plan says, unless somebody uses it or has used it since, and locks that nobody holds. Raises like `collect`."""
    first: errors.RunnerError | OSError | None = None
    for kind, group in itertools.groupby(deletions, lambda deletion: deletion.kind):
        try:
            for deletion, freed in _carry_out(kind, list(group), around):
                if isinstance(freed, int):
                    report(deletion, freed)
                    continue
                log.debug(f"cannot remove {deletion.kind} {deletion.name}: {freed}")
                first = first or freed
        except (errors.RunnerError, OSError) as e:
            first = first or e
    gc.remove_idle_locks(around.store)
    blobs.remove_idle_locks(around.store)
    if isinstance(first, OSError):
        raise errors.InfraError(
            f"not everything could be removed: {first.filename or ''} {first.strerror}", "run `dockless doctor`"
        ) from first
    if first:
        raise first


Removed = tuple[Deletion, int | errors.RunnerError | OSError]


def _carry_out(kind: Kind, group: list[Deletion], around: Surroundings) -> Iterator[Removed]:
    """Try to remove things of one kind; yields them with the bytes freed or the error, those that have to stay not at all."""
    store, account = around.store, around.account
    match kind:
        case Kind.BLOB:
            with locks.hold(store.images_lock):
                named = {blob.digest for _, image in images.all(store) for blob in images.blobs_of(image)}
                yield from _each(group, lambda each: each.name not in named and blobs.discard(store, each.name))
        case Kind.LAYER:
            yield from _layers(store, group)
        case Kind.IMAGE:
            yield from _each(group, lambda each: images.forget(store, each.name, unless_used_after=each.last_used))
        case Kind.VOLUME | Kind.STORAGE:
            yield from _each(group, lambda each: _kept(store, account, each))
        case Kind.JOB:
            yield from _each(group, lambda each: gc.reap_one(store, each.name, account))
        case Kind.DOWNLOAD:
            yield from _each(group, lambda each: blobs.discard_download(store, os.path.basename(each.name)))
        case Kind.REST:
            yield from _each(group, lambda each: _remove(account, each.name))
        case Kind.SPARE:
            settling.settle(store)  # a layer that a power failure may take does not replace its blob
            with locks.hold(store.images_lock):
                spare = inventory.spare_blobs(store)
                yield from _each(group, lambda each: each.name in spare and blobs.discard(store, each.name))


def _each(group: list[Deletion], remove: Callable[[Deletion], bool]) -> Iterator[Removed]:
    """Call `remove`, which tells whether the thing has gone, for each of a group."""
    for deletion in group:
        try:
            if remove(deletion):
                yield deletion, deletion.size_bytes
        except (errors.RunnerError, OSError) as e:
            yield deletion, e


def _layers(store: paths.Store, group: list[Deletion]) -> Iterator[Removed]:
    """Remove layers that jobs do not use and, if they are whole, images do not name by now; what is not whole goes with them."""
    there = [each for each in group if os.path.lexists(_path_of_layer(store, each))]
    wanted = {each.name for each in there}
    named = {name for _, image in images.all(store) for name in layer_names.names_of(image)}

    def is_unwanted(map_name: str, name: str) -> bool:
        return f"{map_name}/{name}" in wanted and not (name in named and layer_names.is_whole(store, map_name, name))

    error: errors.RunnerError | None = None
    try:
        layer_store.discard(store, is_unwanted, used=lambda: live.look(store).layers())
    except errors.RunnerError as e:
        error = e
    yield from ((each, each.size_bytes) for each in there if not os.path.lexists(_path_of_layer(store, each)))
    if error:
        yield group[0], error


def _path_of_layer(store: paths.Store, deletion: Deletion) -> str:
    map_name, _, name = deletion.name.partition("/")
    return f"{store.layer_map(map_name)}/{name}"


def _kept(store: paths.Store, account: Account, deletion: Deletion) -> bool:
    """Take a volume or build storage out of every job's sight while no job can claim it, then remove it, which may last."""
    with locks.hold(store.lock):
        path, build_user, slot = _place(store, deletion)
        lives = live.look(store)
        if lives.has_slot(build_user, slot) or not os.path.isdir(path) or last_use.of(path) > deletion.last_used:
            return False
        gone = paths.gone(path)
        os.rename(path, gone)
        files.remove_tree(paths.stamp(path))
    _remove(account, gone)
    with locks.hold(store.lock):
        if not live.look(store).has_build_user(build_user):
            _remove_empty(os.path.dirname(path), levels=2)
    return True


def _place(store: paths.Store, deletion: Deletion) -> tuple[str, str, int]:
    build_user, middle, last = deletion.name.split("/")
    if deletion.kind is Kind.STORAGE:
        return store.build_storage(build_user, middle, int(last)), build_user, int(last)
    return store.build_user_volume(build_user, int(middle), last), build_user, int(middle)


def _remove_empty(directory: str, *, levels: int) -> None:
    for _ in range(levels):
        try:
            os.rmdir(directory)
        except OSError:
            return  # it is not empty, or has gone
        directory = os.path.dirname(directory)


def _remove(account: Account, path: str) -> bool:
    """Remove a tree, whoever of the account's build users owns parts of it."""
    if os.path.isdir(path):
        userns.call(build_users.every_map(account), lambda: files.remove_tree(path))
    else:
        files.remove_tree(path)
    return True

"""What is on the disk and who uses it, as plain data: what `dockless df` shows and `job.gc_plan` chooses from.

Sizes are allocated bytes. Taking the inventory changes nothing and waits for nobody, so all of it may be out of date a moment later.
"""

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from runner import errors, model, paths
from runner.image import images, layer_names, layer_store, layers, unpacking
from runner.job import last_use, live, state
from runner.kernel import files, locks, userns
from runner.model import Account
from runner.sandbox import build_users

_REST_AGE_S = 3600.0  # nobody takes longer to write one small file


class Image(NamedTuple):
    """One stored reference, and what it needs on all of its platforms; `layers` are the names that they may have in any map."""

    name: str
    size_bytes: int  # of the record alone
    last_used: float
    blobs: frozenset[str]
    layers: frozenset[str]
    in_use: bool = False


class Blob(NamedTuple):
    """A blob; `is_spare` if the layer that it holds is unpacked where everybody finds it."""

    digest: str
    size_bytes: int
    in_use: bool = False
    is_spare: bool = False


class Layer(NamedTuple):
    """An unpacked layer, or what is left of one (`is_whole` False) after a power failure or a killed process."""

    map_name: str
    name: str
    size_bytes: int
    in_use: bool = False
    is_whole: bool = True


class Kept(NamedTuple):
    """What a build user keeps between jobs: a volume, or what a nested engine stored (`engine` is not "")."""

    build_user: str
    slot: int
    name: str
    path: str
    size_bytes: int
    last_used: float
    in_use: bool = False
    engine: str = ""


class Job(NamedTuple):
    """A job's directory."""

    key: str
    size_bytes: int
    is_dead: bool


class Rest(NamedTuple):
    """A download that somebody broke off, or what a killed process left; the path names it."""

    path: str
    size_bytes: int
    in_use: bool = False


class Inventory(NamedTuple):
    """Everything of one store that takes room."""

    images: tuple[Image, ...] = ()
    blobs: tuple[Blob, ...] = ()
    layers: tuple[Layer, ...] = ()
    volumes: tuple[Kept, ...] = ()
    storage: tuple[Kept, ...] = ()
    jobs: tuple[Job, ...] = ()
    downloads: tuple[Rest, ...] = ()
    rests: tuple[Rest, ...] = ()

    def size_bytes(self) -> int:
        """Return the size of all of it."""
        return sum(each.size_bytes for part in self for each in part)


def take(store: paths.Store, account: Account) -> Inventory:
    """Look at a store. Blocks for as long as walking through all volumes lasts. Raises InfraError."""
    try:
        return _take(store, account)
    except OSError as e:
        raise errors.InfraError(f"cannot look at {e.filename or store.root}: {e.strerror}", "run `dockless doctor`") from e


def _take(store: paths.Store, account: Account) -> Inventory:
    lives = live.look(store)
    volumes, storage, unpacked = list(_volumes(store, lives)), list(_storage(store, lives)), list(_layers(store, lives))
    keys = state.keys(store)
    gone = [entry.path for kept in (store.volumes, store.storage) for entry in _walk(kept) if entry.name.endswith(".gone")]
    parts = [f"{store.layer_map(layer.map_name)}/{layer.name}" for layer in unpacked if not layer.is_whole]
    sizes = iter(_measure(account, [*(each.path for each in (*volumes, *storage)), *map(store.job, keys), *gone, *parts]))
    return Inventory(  # in the order of `sizes`
        volumes=tuple(each._replace(size_bytes=next(sizes)) for each in volumes),
        storage=tuple(each._replace(size_bytes=next(sizes)) for each in storage),
        jobs=tuple(Job(key, next(sizes), live.is_dead(store, key)) for key in keys),
        rests=(*[Rest(path, next(sizes)) for path in gone], *_rests(store)),
        layers=tuple(each if each.is_whole else each._replace(size_bytes=next(sizes)) for each in unpacked),
        images=tuple(_images(store, lives)),
        blobs=tuple(_blobs(store)),
        downloads=tuple(_downloads(store)),
    )


def _measure(account: Account, paths_: list[str]) -> list[int]:
    """Return the sizes of trees; what containers have written only a namespace with all their ids can read."""

    def measure() -> list[int]:
        return [files.disk_usage(path) for path in paths_]

    if not paths_:
        return []
    try:
        found: list[int] = userns.call(build_users.every_map(account), measure)
    except OSError:  # a machine that cannot map ids has not let any container write
        return measure()
    return found


def _images(store: paths.Store, lives: live.Live) -> Iterator[Image]:
    by_name: dict[str, list[model.Image]] = {}
    for name, image in images.all(store):
        by_name.setdefault(name, []).append(image)
    for name, found in by_name.items():
        record = images.record(store, name)
        try:
            info = os.stat(record)
        except FileNotFoundError:
            continue  # forgotten just now
        yield Image(
            name=name,
            size_bytes=info.st_blocks * 512,
            last_used=info.st_mtime,
            blobs=frozenset(blob.digest for image in found for blob in images.blobs_of(image)),
            layers=frozenset(layer for image in found for layer in layer_names.names_of(image)),
            in_use=locks.is_held(record) or lives.has_image(frozenset(image.digest for image in found)),
        )


def _blobs(store: paths.Store) -> Iterator[Blob]:
    spare = spare_blobs(store)
    for entry in _entries(store.blobs):
        digest = f"sha256:{entry.name}"
        yield Blob(digest, _allocated(entry), locks.is_held(f"{store.partial_blob(digest)}.lock"), digest in spare)


def spare_blobs(store: paths.Store) -> set[str]:
    """Return the digests of blobs that no image misses, since their layers are among the shared ones."""
    spare: set[str] = set()
    missed: set[str] = set()
    for _, image in images.all(store):
        for layer, is_shared in zip(image.layers, layers.is_unpacked(store, image, None), strict=True):
            (spare if is_shared else missed).add(layer.blob.digest)
    return spare - missed


def _layers(store: paths.Store, lives: live.Live) -> Iterator[Layer]:
    """Find the layers, whole or not; the size of what has no seal that fits is measured later."""
    used = lives.layers()
    sizes = {(map_name, name): size_bytes for map_name, name, size_bytes in layer_store.stored(store)}
    for map_name in layers.maps(store):
        for entry in _directories(store.layer_map(map_name)):
            if entry.name == layer_names.EMPTY:
                continue
            in_use = _is_unpacking(store, map_name, entry.name)
            if not entry.name.startswith("."):
                in_use = in_use or used is None or f"{map_name}/{entry.name}" in used
            size_bytes = sizes.get((map_name, entry.name))
            yield Layer(map_name, entry.name, size_bytes or 0, in_use, size_bytes is not None)


def _is_unpacking(store: paths.Store, map_name: str, name: str) -> bool:
    """Tell whether somebody has claimed a layer, or is unpacking it into `name`, which begins with a dot then."""
    if name.startswith(unpacking.TRASH):
        return False
    diff_name = name[1:].partition(".")[0] if name.startswith(".") else layer_names.read_seal(store, map_name, name).diff_name
    return locks.is_held(store.layer_lock(map_name, diff_name))


def _volumes(store: paths.Store, lives: live.Live) -> Iterator[Kept]:
    for user in _directories(store.volumes):
        for slot in _directories(user.path):
            for volume in _directories(slot.path) if slot.name.isdecimal() else ():
                if _is_ours(volume) and _is_ours(user):
                    yield _kept(volume, lives, build_user=user.name, slot=int(slot.name))


def _storage(store: paths.Store, lives: live.Live) -> Iterator[Kept]:
    for user in _directories(store.storage):
        for engine in _directories(user.path):
            for slot in _directories(engine.path):
                if slot.name.isdecimal() and _is_ours(engine) and _is_ours(user):
                    yield _kept(slot, lives, build_user=user.name, slot=int(slot.name))._replace(engine=engine.name)


def _kept(entry: os.DirEntry[str], lives: live.Live, *, build_user: str, slot: int) -> Kept:
    try:
        last_used = last_use.of(entry.path)
    except FileNotFoundError:
        last_used = time.time()  # removed just now
    return Kept(build_user, slot, entry.name, entry.path, 0, last_used, lives.has_slot(build_user, slot))


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        return bool(paths.component(entry.name))
    except ValueError:
        return False  # somebody else's, or being removed


def _downloads(store: paths.Store) -> Iterator[Rest]:
    for entry in _entries(store.partial):
        if not entry.name.endswith(".lock"):
            yield Rest(entry.path, _allocated(entry), locks.is_held(f"{entry.path}.lock"))


def _rests(store: paths.Store) -> Iterator[Rest]:
    """Find what killed processes were writing: `files.write_atomic` begins such names with a dot."""
    for directory in (store.root, store.images, store.seccomp):
        for entry in _entries(directory):
            if entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                yield Rest(entry.path, _allocated(entry), time.time() - entry.stat(follow_symlinks=False).st_mtime < _REST_AGE_S)


def _walk(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield what lies two directories further down: volumes and storage."""
    for first in _directories(directory):
        for second in _directories(first.path):
            yield from _entries(second.path)


def _allocated(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0


def _directories(path: str) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []

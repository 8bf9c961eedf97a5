"""Unpacked layers as things that take space: what is there, and what may go."""

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from runner import errors, log, paths
from runner.image import layer_names, layers, unpacking
from runner.kernel import files, locks

_PATIENCE_S = 2.0  # lookups of jobs have the lock for a millisecond


class Stored(NamedTuple):
    """One whole layer: `name` among those of the map `map_name`, and the bytes of the disk that it takes."""

    map_name: str
    name: str
    size_bytes: int


def stored(store: paths.Store) -> list[Stored]:
    """Return every whole layer, by map and name. What is damaged, or was left by a killed process, is not among them."""
    found = []
    for map_name in layers.maps(store):
        for entry in sorted(os.listdir(store.layer_map(map_name))):
            name = entry.removesuffix(".seal")
            if name != entry and layer_names.is_whole(store, map_name, name):
                found.append(Stored(map_name, name, layer_names.read_seal(store, map_name, name).size_bytes))
    return found


def collect(store: paths.Store, *, keep: set[str], used: Callable[[], set[str] | None]) -> int:
    """Remove every layer whose name is not in `keep`, in any map; see `discard`. Also removes what killed processes left."""
    return discard(store, lambda map_name, name: name not in keep, used=used)


def discard(store: paths.Store, is_unwanted: Callable[[str, str], bool], *, used: Callable[[], set[str] | None]) -> int:
    """Remove the layers (map name, name) that are unwanted and in nobody's use, and return the bytes freed, as their seals count them.

    `used` returns the layers that jobs use as "map/name", None for all; it is asked under each map's lock, after which no job can begin to
    use one unseen. A layer that a pull has claimed stays. Goes on past errors and raises the first as InfraError. Idempotent.
    """
    freed = 0
    first: errors.InfraError | None = None
    for map_name in layers.maps(store):
        try:
            freed += _discard_from(store, map_name, is_unwanted, used)
        except BlockingIOError:
            log.debug(f"layers of map {map_name} stay: somebody has their lock")
        except OSError as e:
            error = errors.InfraError(f"cannot remove layers in {store.layer_map(map_name)}: {e.strerror}", "run `dockless doctor`")
            error.__cause__ = e
            first = first or error
    if first:
        raise first
    return freed


def _discard_from(store: paths.Store, map_name: str, is_unwanted: Callable[[str, str], bool], used: Callable[[], set[str] | None]) -> int:
    directory = store.layer_map(map_name)
    id_map = unpacking.read_map(directory)
    if id_map is None:
        raise OSError(0, "map.json is damaged; the next layer that is unpacked there writes it anew", directory)
    freed = 0
    with locks.hold(store.layer_map_lock(map_name), timeout_s=_PATIENCE_S):
        in_use = used()
        for name in _names(os.listdir(directory)):
            if in_use is None or f"{map_name}/{name}" in in_use or not is_unwanted(map_name, name):
                continue
            freed += _trash(store, map_name, name)
    unpacking.sweep(store, map_name, id_map)
    unpacking.remove(directory, [entry for entry in os.listdir(directory) if entry.startswith(unpacking.TRASH)], id_map)
    return freed


def _names(entries: Iterable[str]) -> list[str]:
    """Return what layers lie in a map's directory, whole or not."""
    found = {entry.removesuffix(".seal") for entry in entries if not entry.startswith(".")}
    return sorted(found - {"map.json", layer_names.EMPTY})


def _trash(store: paths.Store, map_name: str, name: str) -> int:
    """Take one layer out of sight, unless somebody has its lock; return the bytes that this will free."""
    seal = layer_names.read_seal(store, map_name, name)
    lock = store.layer_lock(map_name, seal.diff_name)
    fd = locks.try_take(lock)
    if fd is None:
        return 0
    try:
        files.remove_tree(store.layer_seal(map_name, name))
        try:
            os.rename(store.layer(map_name, name), f"{store.layer_map(map_name)}/{unpacking.TRASH}{name}.{os.urandom(4).hex()}")
        except FileNotFoundError:
            pass
        os.unlink(lock)
        return seal.size_bytes
    finally:
        os.close(fd)

"""Unpacked layers as the collector sees them: what there is, and removing some of it."""

import os
from collections.abc import Callable
from typing import NamedTuple

from runner import errors, paths
from runner.image import layers
from runner.kernel import files, locks, userns


class Stored(NamedTuple):
    """One unpacked layer, or (its name begins with a dot) what a killed process left of one."""

    map_name: str
    name: str
    size_bytes: int


def stored(store: paths.Store) -> list[Stored]:
    """Return all unpacked layers with what they have on the disk. Maps whose record is damaged are left out."""
    found = []
    for map_name in layers._maps(store):
        directory = store.layer_map(map_name)
        try:
            id_map = layers._read_map(directory)
        except (OSError, errors.InfraError):
            continue
        names = sorted(name for name in os.listdir(directory) if name not in ("map.json", layers.EMPTY))

        def measure(directory: str = directory, names: list[str] = names) -> list[int]:
            return [files.disk_usage(f"{directory}/{name}") for name in names]

        sizes = userns.call(layers._with_account(id_map), measure) if names else []
        found += [Stored(map_name, name, int(size)) for name, size in zip(names, sizes, strict=True)]
    return found


def discard(store: paths.Store, wanted: set[tuple[str, str]], is_used: Callable[[str, str], bool]) -> int:
    """Remove some layers and return the bytes freed. `is_used` is asked under the map's lock; a map that is being unpacked for stays."""
    freed = 0
    for map_name in sorted({map_name for map_name, _ in wanted}):
        fd = locks.try_take(store.layer_map_lock(map_name))
        if fd is None:
            continue
        try:
            directory = store.layer_map(map_name)
            names = [name for on, name in sorted(wanted) if on == map_name and not is_used(map_name, name)]
            freed += layers.remove(directory, names, layers._read_map(directory))
        except OSError as e:
            raise errors.InfraError(f"cannot remove layers in {directory}: {e.strerror}", "run `dockless doctor`") from e
        finally:
            os.close(fd)
    return freed

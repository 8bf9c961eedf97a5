"""Making unpacked layers safe on the disk. A pull does not wait for that, so every clean-up of a job asks whether it is time."""

from __future__ import annotations

import os

from runner import log
from runner.image import layer_names, layers
from runner.kernel import files, locks, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner import paths


def settle(store: paths.Store, *, unpacked_before: float = float("inf")) -> int:
    """Make every whole layer that is older than a time survive a power failure; return how many did not before. Idempotent.

    Blocks for the disk if there are such, else costs a file read a layer. Raises OSError when the disk fails: then what was unpacked may be
    anything, and loses its seal.
    """
    todo = [each for map_name in layers.maps(store) for each in _unsettled(store, map_name, unpacked_before)]
    if not todo:
        return 0
    fd = os.open(store.layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    except OSError:
        for map_name, name in todo:
            files.remove_tree(store.layer_seal(map_name, name))
        raise
    finally:
        os.close(fd)
    for map_name, name in todo:
        with locks.hold(store.layer_map_lock(map_name), shared=True):
            if layer_names.is_whole(store, map_name, name):
                found = layer_names.read_seal(store, map_name, name)
                layer_names.seal(store, map_name, name, diff_name=found.diff_name, size_bytes=found.size_bytes, settled=True)
    log.debug(f"settled {len(todo)} layers")
    return len(todo)


def _unsettled(store: paths.Store, map_name: str, before: float) -> list[tuple[str, str]]:
    found = []
    for entry in sorted(os.listdir(store.layer_map(map_name))):
        name = entry.removesuffix(".seal")
        if name == entry or layer_names.read_seal(store, map_name, name).settled or not layer_names.is_whole(store, map_name, name):
            continue
        try:
            if os.stat(store.layer_seal(map_name, name)).st_mtime < before:
                found.append((map_name, name))
        except FileNotFoundError:
            continue  # collected just now
    return found

"""Which layers a job with some id map sees, and where: the shared ones through a view, or those of its own map. Loaded on the hot path.

A view is a read-only idmapped mount of the shared layers' directory that `dockless setup` made (paths.view): there, what one slice owns on
the disk belongs to the ids of another map, so one copy of a layer serves every build user (mount_setattr(2), MOUNT_ATTR_IDMAP).
"""

from __future__ import annotations

import os

from runner import paths
from runner.image import layer_names
from runner.kernel import files
from runner.model import Extent, IdMap
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Place(NamedTuple):
    """Where layers are: `id_map` owns them on the disk, below store.layer_map(`name`); `shown` is the directory to mount them from."""

    name: str
    id_map: IdMap
    shown: str
    is_shared: bool


def place(store: paths.Store, id_map: IdMap) -> Place:
    """Return where the layers for an id map are. Looks at a file and two directories."""
    name = layer_names.map_name(id_map)
    shared = shared_map(store)
    if shared is not None:
        shared_name = layer_names.map_name(shared)
        view = _find(store.layer_map(shared_name), name)
        if view:
            return Place(shared_name, shared, view, True)
    return Place(name, id_map, store.layer_map(name), False)


def shared_map(store: paths.Store) -> IdMap | None:
    """Return the id map that owns the shared layers on the disk, None where `dockless setup` was not run."""
    try:
        return decode(files.read_json(store.shared_map))
    except (OSError, ValueError, TypeError):
        return None


def share(store: paths.Store, id_map: IdMap) -> None:
    """Say that layers are shared from now on, and whose ids own them. Durable, idempotent."""
    files.write_json(store.shared_map, id_map)


def decode(value: Any) -> IdMap:
    """Read an id map back from what JSON makes of one. ValueError or TypeError if it is something else."""
    uids, gids = value
    return IdMap(tuple(Extent(*extent) for extent in uids), tuple(Extent(*extent) for extent in gids))


def _find(directory: str, map_name: str) -> str:
    """Return the mount point, which only root can have made, that shows a directory with the ids of a map; "" where there is none."""
    try:
        info = os.stat(directory)
        view = paths.view(os.getuid(), info, map_name)
        return view if os.path.samestat(os.stat(view), info) else ""
    except OSError:
        return ""

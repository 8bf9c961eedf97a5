"""The one question about layers: the lower directories of an image under an id map. Loaded on the hot path.

Where `dockless setup` has made a view for the map, one copy of each layer serves all build users; elsewhere each map has layers of its own,
unpacked the first time. Nothing above this module knows which.
"""

from __future__ import annotations

import errno
import os

from runner import errors, log, paths
from runner.image import layer_names, views
from runner.kernel import locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.image.views import Place
    from runner.model import IdMap, Image

_TRIES = 3


def lower_directories(
    image: Image, id_map: IdMap, *, store: paths.Store, use: Callable[[Sequence[str]], object] = tuple
) -> tuple[str, ...]:
    """Return the layers of an image as directories owned by the ids of `id_map`, topmost first; unpack those that are missing. Idempotent.

    `use` hears which layers these are, as "map/name", while the collector is locked out, and writes down who uses them. UserError for an
    image that cannot be unpacked, InfraError when the disk fails; both leave nothing. unpacking.Incomplete, which is Temporary, when a
    blob is gone or damaged: fetch the image again. Blocks while another process unpacks one of the layers.
    """
    place = views.place(store, id_map)
    lock = store.layer_map_lock(place.name)
    try:
        for _ in range(_TRIES):
            with locks.hold(lock, shared=True):
                found = _find_all(store, place, image)
                if found:
                    use([f"{place.name}/{name}" for name in found])
                    # overlayfs takes a directory once: one that comes again further down would show nothing of its own
                    return tuple(dict.fromkeys(f"{place.shown}/{name}" for name in reversed(found)))
            _unpack(image, place, store)
    except OSError as e:
        raise failed(image.source, store, e) from e
    raise errors.Temporary(
        f"layers of image {image.source} are removed as fast as they are unpacked", "is `dockless gc` running all the time?"
    )


def failed(source: str, store: paths.Store, error: OSError) -> errors.InfraError:
    """Return what a failing disk means for unpacking an image."""
    hint = "free some space: dockless gc" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "run `dockless doctor`"
    return errors.InfraError(f"cannot unpack image {source} in {store.layers}: {error.strerror}", hint)


def is_unpacked(store: paths.Store, image: Image, id_map: IdMap | None) -> list[bool]:
    """Tell for each layer, lowest first, whether it is unpacked where jobs with `id_map` look; None asks for the shared layers."""
    if id_map is None:
        shared = views.shared_map(store)
        name = layer_names.map_name(shared) if shared else ""
    else:
        name = views.place(store, id_map).name
    return [bool(name and layer_names.find(store, name, image.layers, at)) for at in range(len(image.layers))]


def _find_all(store: paths.Store, place: Place, image: Image) -> list[str]:
    """Return the names of all layers, lowest first, [] unless all are there."""
    if not image.layers:
        return [layer_names.EMPTY] if os.path.isdir(store.layer(place.name, layer_names.EMPTY)) else []
    found = []
    for at in range(len(image.layers)):
        name = layer_names.find(store, place.name, image.layers, at)
        if not name:
            return []
        found.append(name)
    return found


def _unpack(image: Image, place: Place, store: paths.Store) -> None:
    # threads and decompressors cost 20 ms to import: who has the layers does not pay for them
    from runner.image import unpacking

    directory = store.layer_map(place.name)
    if not image.layers:
        unpacking.record_map(directory, place.id_map)
        staging = unpacking.make_staging(directory, [layer_names.EMPTY], place.id_map)[0]
        try:
            os.rename(staging, store.layer(place.name, layer_names.EMPTY))
        except OSError as e:
            if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was faster
                raise
        return
    if not place.is_shared and _is_elsewhere(store, image, place.name):
        log.say(f"Unpacking image {image.source} once more, for this build user: after `dockless setup` (once, as root) all share one copy")
    with unpacking.Unpacking(store, place, image.layers, source=image.source) as work:
        work.finish_all()


def _is_elsewhere(store: paths.Store, image: Image, name: str) -> bool:
    """Tell whether the image's top layer lies unpacked under another map."""
    top = len(image.layers) - 1
    return any(other != name and layer_names.find(store, other, image.layers, top) for other in maps(store))


def maps(store: paths.Store) -> list[str]:
    """Return the names of all maps that layers are unpacked for."""
    try:
        return sorted(entry for entry in os.listdir(store.layers) if os.path.exists(f"{store.layers}/{entry}/map.json"))
    except FileNotFoundError:
        return []

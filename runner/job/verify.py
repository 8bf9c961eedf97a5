"""`dockless verify`: everything in the store against its digests; what is damaged is removed, replaced, or fetched again."""

from collections.abc import Callable
from typing import NamedTuple

from runner import errors, log, paths
from runner.image import blobs, images, layer_names, layers, unpacking, views
from runner.job import live
from runner.kernel import locks
from runner.model import Descriptor, IdMap, Image


class Report(NamedTuple):
    """What was found: counts of what was looked at, and sentences about what was and what still is wrong."""

    blobs: int
    layers: int
    unchecked: int  # layers whose blob is not in the store, so that there is nothing to compare them with
    mended: tuple[str, ...]
    broken: tuple[str, ...]


Fetch = Callable[[str, Image, IdMap | None], object]


def run(store: paths.Store, *, fetch: Fetch) -> Report:
    """Check every blob and layer; `fetch(name, image, id map)` brings what an image lacks. Safe beside pulls and jobs; takes long.

    What a running job uses is not replaced under it, and said to be broken.
    """
    mended: list[str] = []
    broken: list[str] = []
    known = images.all(store)
    checked = _check_blobs(store, known, mended)
    counts = _check_layers(store, known, mended, broken)
    for name, image in known:
        id_map = views.shared_map(store)
        if images.find(store, name, platform=image.platform, id_map=id_map) is not None:
            continue
        try:
            fetch(name, image, id_map)
            mended.append(f"image {name} was fetched again")
        except errors.RunnerError as e:
            broken.append(f"image {name} is incomplete, and cannot be fetched again: {e.message}")
    return Report(checked, counts[0], counts[1], tuple(mended), tuple(broken))


def _check_blobs(store: paths.Store, known: list[tuple[str, Image]], mended: list[str]) -> int:
    wanted = dict.fromkeys(blob.digest for _, image in known for blob in images.blobs_of(image))
    found = [digest for digest in wanted if blobs.exists(store, digest)]
    for digest in found:
        log.debug(f"checking blob {digest}")
        if blobs.remove_damaged(store, Descriptor("", digest, -1)):
            mended.append(f"blob {digest} was damaged and has been removed")
    return len(found)


def _check_layers(store: paths.Store, known: list[tuple[str, Image]], mended: list[str], broken: list[str]) -> tuple[int, int]:
    """Compare every layer of every map with its blob, each once; return how many were compared and how many could not be."""
    seen: set[tuple[str, str]] = set()
    compared = unchecked = 0
    for map_name in layers.maps(store):
        id_map = unpacking.read_map(store.layer_map(map_name))
        if id_map is None:
            broken.append(f"{store.layer_map(map_name)}/map.json is damaged; the next image that is unpacked there writes it anew")
            continue
        place = views.Place(map_name, id_map, store.layer_map(map_name), False)
        for _, image in known:
            for at in range(len(image.layers)):
                name = layer_names.find(store, map_name, image.layers, at)
                if not name or (map_name, name) in seen:
                    continue
                seen.add((map_name, name))
                try:
                    _check_layer(store, place, image, at, name, mended, broken)
                    compared += 1
                except unpacking.Incomplete:
                    unchecked += 1
                except errors.RunnerError as e:
                    broken.append(f"layer {map_name}/{name} cannot be checked: {e.message}")
    return compared, unchecked


def _check_layer(store: paths.Store, place: views.Place, image: Image, at: int, name: str, mended: list[str], broken: list[str]) -> None:
    log.debug(f"checking layer {place.name}/{name}")
    with locks.hold(store.layer_map_lock(place.name), shared=True):
        used = live.look(store).layers()
    is_used = used is None or f"{place.name}/{name}" in used
    try:
        with unpacking.Unpacking(store, place, image.layers, source=image.source, again=(at,)) as work:
            difference = work.compare(at, replace=not is_used)
    except OSError as e:
        raise layers.failed(image.source, store, e) from e
    if not difference:
        return
    if is_used:
        broken.append(f"layer {place.name}/{name} is damaged ({difference}), and a running job uses it: verify again after it")
    else:
        mended.append(f"layer {place.name}/{name} was damaged ({difference}) and has been replaced")

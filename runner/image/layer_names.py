"""What a layer is called: by its diff id, or by its chain id where it looks different over different layers. Loaded on the hot path.

A layer with directories that it does not describe takes their look from the layers below (image.below), so it is named by its chain id
(OCI image-spec config.md, "Layer ChainID") after a "c".
"""

from __future__ import annotations

import os

from runner import paths
from runner.kernel import boot, files
from runner.model import Extent, IdMap
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.model import Image, Layer

EMPTY = "empty"  # the one layer of an image that has none
_DIGITS = 24
_SETTLED = b"-"


class Seal(NamedTuple):
    """What is known of a layer: its bytes on the disk, its name by diff id, which its lock has, and whether it outlives this boot."""

    size_bytes: int
    diff_name: str
    settled: bool


def map_name(id_map: IdMap) -> str:
    """Name an id map: "s200000" for a whole slice, "s200000a0" where container id 0 is the account."""
    sides = [_side(extents) for extents in id_map]
    return f"s{sides[0]}" if sides[0] == sides[1] else f"s{sides[0]}g{sides[1]}"


def _side(extents: tuple[Extent, ...]) -> str:
    widest = max(extents, key=lambda extent: extent.count)
    start = widest.outside - widest.inside
    # an extent of one id may be the slice's: what lies below container id 1
    shared = [extent.inside for extent in extents if extent.outside - extent.inside != start]
    return f"{start}a{shared[0]}" if shared else str(start)


def by_diff(layers: Sequence[Layer], at: int) -> str:
    """Name the layer at a place, lowest 0, by what it holds."""
    return _short(layers[at].diff_id)


def by_chain(layers: Sequence[Layer], at: int) -> str:
    """Name the layer at a place by what it holds and what lies below it."""
    # costs 5 ms to import, and few layers have directories that they do not describe
    import hashlib

    chain = layers[0].diff_id
    for layer in layers[1 : at + 1]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {layer.diff_id}".encode()).hexdigest()
    return f"c{_short(chain)}"


def names_of(image: Image) -> set[str]:
    """Return every name that a layer of an image may have."""
    both = [(by_diff(image.layers, at), by_chain(image.layers, at)) for at in range(len(image.layers))]
    return {name for pair in both for name in pair}


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_DIGITS]


def find(store: paths.Store, of_map: str, layers: Sequence[Layer], at: int) -> str:
    """Return the name under which a layer lies, whole, among those of a map; "" if it does not. Two file accesses for one that does."""
    name = by_diff(layers, at)
    if is_whole(store, of_map, name):
        return name
    if not os.path.isdir(store.layer_map(of_map)):
        return ""
    name = by_chain(layers, at)
    return name if is_whole(store, of_map, name) else ""


def seal(store: paths.Store, of_map: str, name: str, *, diff_name: str, size_bytes: int, settled: bool = False) -> None:
    """Say that a layer is whole. `settled`: also on the disk; else until the next boot. Atomic; what is said replaces what was."""
    info = os.stat(store.layer(of_map, name))
    until = _SETTLED.decode() if settled else boot.boot_id()
    text = f"{until} {info.st_ino} {info.st_ctime_ns} {size_bytes} {diff_name}\n"
    files.write_atomic(store.layer_seal(of_map, name), text.encode(), durable=settled)


def is_whole(store: paths.Store, of_map: str, name: str) -> bool:
    """Tell whether a layer is there as it was sealed: on this boot or settled, and nothing added to or taken from its root since."""
    try:
        until, inode, changed_ns, _, _ = files.read(store.layer_seal(of_map, name), limit_bytes=4096).split()
        info = os.stat(store.layer(of_map, name))
        is_same = (int(inode), int(changed_ns)) == (info.st_ino, info.st_ctime_ns)
    except (OSError, ValueError):
        return False
    return is_same and (until == _SETTLED or until == boot.boot_id().encode())


def read_seal(store: paths.Store, of_map: str, name: str) -> Seal:
    """Return what the seal of a layer says, also of one that is not whole any more; nothing without a usable seal."""
    try:
        until, _, _, size, diff_name = files.read(store.layer_seal(of_map, name), limit_bytes=4096).split()
        return Seal(int(size), paths.component(diff_name.decode()), until == _SETTLED)
    except (OSError, ValueError):
        return Seal(0, name, False)

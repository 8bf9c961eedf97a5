"""The one question about layers: the lower directories of an image under an id map. Loaded on the hot path.

Today each id map has layers of its own, unpacked the first time. A layer is named by its diff id; one with directories that it does not
describe looks different over different layers below, and is named by its chain id (OCI image-spec config.md, "Layer ChainID").
"""

from __future__ import annotations

import errno
import os

from runner import errors, log, paths
from runner.kernel import files, locks, syscalls, userns
from runner.model import Extent, IdMap, Image, Layer, beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EMPTY = "empty"
_NAME_DIGITS = 24


def lower_directories(image: Image, id_map: IdMap, *, store: paths.Store) -> tuple[str, ...]:
    """Return the layers of an image as directories owned by the ids of `id_map`, topmost first; unpack those that are missing. Idempotent.

    The caller's job is on record as alive, which keeps them from `collect`. Takes the map's lock. UserError for an image that cannot be
    unpacked, InfraError when the disk fails; both leave nothing. Blocks while another process unpacks for the same map.
    """
    name = map_name(id_map)
    lock = store.layer_map_lock(name)
    try:
        with locks.hold(lock, shared=True):
            found = [_find(store, name, image.layers, at) for at in range(len(image.layers))]
            if found and all(found):
                return _stack([path for path in found if path])
        with locks.hold(lock):
            return _stack(_unpack_missing(image, id_map, store.layer_map(name), store))
    except OSError as e:
        hint = "free some space: dockless gc" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "run `dockless doctor`"
        raise errors.InfraError(f"cannot unpack image {image.source} in {store.layers}: {e.strerror}", hint) from e


def _stack(lowest_first: Sequence[str]) -> tuple[str, ...]:
    """Put layers topmost first. overlayfs takes a directory once: one that comes again further down would show nothing of its own."""
    return tuple(dict.fromkeys(reversed(lowest_first)))


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


def names_of(image: Image) -> set[str]:
    """Return every name that a layer of an image may have."""
    both = [(_by_diff(image.layers, at), _by_chain(image.layers, at)) for at in range(len(image.layers))]
    return {name for pair in both for name in pair}


def _by_diff(layers: Sequence[Layer], at: int) -> str:
    return _short(layers[at].diff_id)


def _by_chain(layers: Sequence[Layer], at: int) -> str:
    # costs 5 ms to import, and few layers have directories that they do not describe
    import hashlib

    chain = layers[0].diff_id
    for layer in layers[1 : at + 1]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {layer.diff_id}".encode()).hexdigest()
    return f"c{_short(chain)}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_NAME_DIGITS]


def _find(store: paths.Store, name: str, layers: Sequence[Layer], at: int) -> str | None:
    path = store.layer(name, _by_diff(layers, at))
    if os.path.isdir(path):
        return path
    path = store.layer(name, _by_chain(layers, at))
    return path if os.path.isdir(path) else None


def _unpack_missing(image: Image, id_map: IdMap, directory: str, store: paths.Store) -> list[str]:
    """Bring every layer of the image into the map's directory and return them, lowest first. The caller holds the map's lock."""
    name = os.path.basename(directory)
    _prepare_map(directory, id_map)
    missing = [at for at in range(len(image.layers)) if not _find(store, name, image.layers, at)]
    done: list[str] = []
    try:
        # all at once, because a namespace costs more than a small layer
        staging = dict(zip(missing, _make_staging(directory, [_by_diff(image.layers, at) for at in missing], id_map), strict=True))
        for at, layer in enumerate(image.layers):
            # a layer that comes twice is there the second time
            path = _find(store, name, image.layers, at) or _unpack_one(image, at, id_map, staging[at], done[::-1], store)
            done.append(path)
            log.debug(f"layer {layer.diff_id} is {os.path.basename(path)}")
        return done or [_make_empty(directory, id_map)]
    finally:
        _remove_rests(directory, id_map)


def _prepare_map(directory: str, id_map: IdMap) -> None:
    """Make the map's directory, with the map itself on record, and remove what a killed process left in it."""
    files.make_directory(directory)
    try:
        _read_map(directory)
    except (FileNotFoundError, errors.InfraError):
        files.write_json(f"{directory}/map.json", id_map)
    _remove_rests(directory, id_map)


def _remove_rests(directory: str, id_map: IdMap) -> None:
    remove(directory, [entry for entry in os.listdir(directory) if entry.startswith(".")], id_map)


def _make_staging(directory: str, entries: Sequence[str], id_map: IdMap) -> list[str]:
    """Make directories that belong to the map's root: only a namespace that has the account and the slice may give them away."""
    made = [f"{directory}/.{entry}.{os.urandom(4).hex()}" for entry in entries]
    wide = _with_account(id_map)
    uid, gid = _inside(wide.uids, _root(id_map.uids)), _inside(wide.gids, _root(id_map.gids))

    def make() -> None:
        for path in made:
            os.mkdir(path, 0o755)
            os.chown(path, uid, gid)

    if made:
        userns.call(wide, make)
    return made


def _make_empty(directory: str, id_map: IdMap) -> str:
    path = f"{directory}/{EMPTY}"
    if not os.path.isdir(path):
        os.rename(_make_staging(directory, [EMPTY], id_map)[0], path)
    return path


def _unpack_one(image: Image, at: int, id_map: IdMap, staging: str, lowers: list[str], store: paths.Store) -> str:
    """Unpack one layer into `staging` and rename it into place once it is whole and on the disk."""
    # the decompressors cost 10 ms to import: who has the layers does not pay for them
    from runner.image import below, layer_blob

    layer = image.layers[at]
    what = f"layer {at + 1} of image {image.source}"
    # O_PATH: an image may close its root to this account, and only the namespace can read it then
    lower_fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lowers]
    root = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(store.blob(layer.blob.digest), "rb") as file:

            def fill() -> int:
                implicit = layer_blob.unpack_verified(file, root, diff_id=layer.diff_id, what=what)
                below.inherit(root, implicit, lower_fds)
                syscalls.syncfs(root)
                return len(implicit)

            implicit = userns.call(id_map, fill)
        path = f"{os.path.dirname(staging)}/{(_by_chain if implicit else _by_diff)(image.layers, at)}"
        os.rename(staging, path)
        files.fsync_directory(os.path.dirname(staging))
    finally:
        for fd in (root, *lower_fds):
            os.close(fd)
    return path


def remove(directory: str, entries: Sequence[str], id_map: IdMap) -> int:
    """Remove layers of one map and return the bytes freed; only a namespace that has all their owners can. Idempotent."""

    def work() -> int:
        freed = 0
        for entry in entries:
            freed += files.disk_usage(f"{directory}/{entry}")
            files.remove_tree(f"{directory}/{entry}")
        return freed

    return int(userns.call(_with_account(id_map), work)) if entries else 0


def collect(store: paths.Store, *, keep: set[str], is_needed: Callable[[], bool]) -> int:
    """Remove every unpacked layer whose name is not in `keep`, and what killed processes left; return the bytes freed.

    `is_needed` tells whether some job may use layers right now; it is asked under each map's lock, after which no job can start using
    one unseen. Leaves a map alone that somebody is unpacking for. Goes on past errors and raises the first.
    """
    freed = 0
    first: errors.InfraError | None = None
    for name in _maps(store):
        fd = locks.try_take(store.layer_map_lock(name))
        if fd is None:
            continue
        try:
            if not is_needed():
                freed += _collect_map(store.layer_map(name), keep)
        except errors.InfraError as e:
            first = first or e
        finally:
            os.close(fd)
    if first:
        raise first
    return freed


def _collect_map(directory: str, keep: set[str]) -> int:
    id_map = _read_map(directory)
    try:
        stale = [entry for entry in os.listdir(directory) if entry not in keep and entry not in ("map.json", EMPTY)]
        return remove(directory, stale, id_map)
    except OSError as e:
        raise errors.InfraError(f"cannot remove layers in {directory}: {e.strerror}", "run `dockless doctor`") from e


def _maps(store: paths.Store) -> list[str]:
    try:
        return sorted(entry for entry in os.listdir(store.layers) if os.path.exists(f"{store.layers}/{entry}/map.json"))
    except FileNotFoundError:
        return []


def _read_map(directory: str) -> IdMap:
    """Return the id map that a map's directory has on record. Raises FileNotFoundError, and InfraError for a damaged record."""
    try:
        uids, gids = files.read_json(f"{directory}/map.json")
        id_map = IdMap(tuple(Extent(*extent) for extent in uids), tuple(Extent(*extent) for extent in gids))
        if map_name(id_map) != os.path.basename(directory):
            raise ValueError("it is the record of another map")
    except (ValueError, TypeError) as e:
        raise errors.InfraError(f"{directory}/map.json is damaged: {e}", "the next layer that is unpacked there writes it anew") from e
    return id_map


def _root(extents: tuple[Extent, ...]) -> int:
    return next(extent.outside for extent in extents if extent.inside == 0)


def _with_account(id_map: IdMap) -> IdMap:
    """Map 0 to this account and 1… to the rest of `id_map`: what may manage files of both."""
    return IdMap(beside(os.getuid(), id_map.uids), beside(os.getgid(), id_map.gids))


def _inside(extents: tuple[Extent, ...], outside: int) -> int:
    return next(extent.inside + outside - extent.outside for extent in extents if extent.outside <= outside < extent.outside + extent.count)

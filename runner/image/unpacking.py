"""The layers of one image on their way into the directory of one map: which are missing, who unpacks them, and when they count.

Each layer has a lock: held alone while it is unpacked, and shared from then on until the image is on record, so that ten processes unpack
it once and the collector leaves it alone. A layer is unpacked beside its place, renamed when its blob and its content have the right
digests, and sealed; until then it is not there.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from runner import errors, log, paths
from runner.image import blobs, differences, layer_names, unpacker, views
from runner.kernel import files, locks, userns
from runner.model import IdMap, Layer, beside

TRASH = ".trash."  # what the collector took out of sight begins so


class Abandoned(Exception):
    """Another layer of the same image has failed, so nobody waits for this one any more."""


class Incomplete(errors.Temporary):
    """A blob that has to be unpacked is not in the store, or was damaged there and has been removed: fetch the image again."""


class Unpacking:
    """A context manager that claims an image's layers and takes in those that are missing; `finish` is for several threads.

    The caller is single-threaded until `__enter__` has returned. Entering blocks while another process unpacks one of the layers.
    Raises OSError when the disk fails.
    """

    def __init__(self, store: paths.Store, place: views.Place, layers: Sequence[Layer], *, source: str, again: Sequence[int] = ()) -> None:
        """Touch nothing yet; `source` names the image in errors. Layers at `again` count as missing in any case: for `compare`."""
        self._store, self._place, self._layers, self._source, self._again = store, place, layers, source, again
        self._held: dict[str, int] = {}
        self._alone: set[str] = set()  # of the held locks
        self._staging: dict[int, str] = {}
        self._done: dict[int, threading.Event] = {at: threading.Event() for at in range(len(layers))}
        self._failed = False

    def __enter__(self) -> "Unpacking":
        """Claim every layer, and make ready for those that are missing."""
        with ExitStack() as stack:
            stack.callback(self._release)
            directory = self._store.layer_map(self._place.name)
            record_map(directory, self._place.id_map)
            for name in sorted({layer_names.by_diff(self._layers, at) for at in range(len(self._layers))}):
                self._take(name)
            # one place at a time of a layer that comes twice: most often it is then there for the other one, too
            lacking = [at for at in range(len(self._layers)) if not self._is_there(at)]
            missing = sorted({layer_names.by_diff(self._layers, at): at for at in reversed(lacking)}.values())
            self.missing = tuple(missing)
            if missing:
                sweep(self._store, self._place.name, self._place.id_map, ours=[layer_names.by_diff(self._layers, at) for at in missing])
                self._staging = self._make_staging(directory, missing)
                stack.callback(self._discard_staging)
                descriptors = [self._open(at, stack) for at in range(len(self._layers))]
                self._unpacker = stack.enter_context(unpacker.Unpacker(self._place.id_map, descriptors))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the layers; what was not finished goes."""
        self._stack.close()

    def follow(self, at: int, path: str) -> unpacker.Filling:
        """Begin to unpack a missing layer from a file that is still being written, or whole."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            what = f"layer {at + 1} of image {self._source[:1000]}"
            return self._unpacker.start(at, fd, diff_id=self._layers[at].diff_id, what=what)
        finally:
            os.close(fd)

    def finish(self, at: int, filling: unpacker.Filling | None = None) -> None:
        """Wait for a missing layer, whose blob is in the store and verified by now, and give it its place; once more from there if need be.

        A worker that followed a download may have read what the download then took back. UserError for a layer that cannot be unpacked,
        InfraError when the disk is full, Incomplete when the blob is gone or damaged, Abandoned when a layer below has failed.
        """
        try:
            if filling is not None:
                try:
                    unpacked = filling.finish(lambda: self._await_below(at))
                except (errors.RunnerError, OSError) as e:
                    if self._failed:
                        raise
                    log.debug(f"layer {at + 1} of image {self._source} is unpacked once more: {e}")
                else:
                    self._settle(at, *unpacked)
                    return
            self._from_store(at)
        except (errors.RunnerError, OSError) as e:
            if self._failed:  # a layer that failed before has ended this one's worker, and is the one to tell about
                raise Abandoned from e
            self._give_up()
            raise
        except BaseException:
            self._give_up()
            raise

    def compare(self, at: int, *, replace: bool) -> str:
        """Unpack a layer once more from its blob and return how what is there differs, "" if it does not; `replace` puts the new one there.

        Raises as `finish`.
        """
        blob = self._layers[at].blob
        try:
            filling = self.follow(at, self._store.blob(blob.digest))
        except FileNotFoundError as e:
            raise Incomplete(f"blob {blob.digest} is not in the store") from e
        depends, size_bytes = filling.finish(lambda: self._await_below(at))
        name = (layer_names.by_chain if depends else layer_names.by_diff)(self._layers, at)
        path = self._store.layer(self._place.name, name)
        found = str(userns.call(_with_account(self._place.id_map), lambda: differences.first(path, self._staging[at])))
        if found and replace:
            self._settle(at, depends, size_bytes)
        return found

    def abandon(self) -> None:
        """End all unpacking at once: every `finish` that is under way fails. Idempotent."""
        self._give_up()
        if self.missing:
            self._unpacker.kill()

    def _give_up(self) -> None:
        self._failed = True
        for event in self._done.values():
            event.set()  # who waits for a layer finds out

    def _from_store(self, at: int) -> None:
        blob = self._layers[at].blob
        try:
            filling = self.follow(at, self._store.blob(blob.digest))
        except FileNotFoundError as e:
            words = f"blob {blob.digest} of layer {at + 1} of image {self._source} is not in the store"
            raise Incomplete(words, f"dockless pull {self._source}") from e
        try:
            self._settle(at, *filling.finish(lambda: self._await_below(at)))
        except errors.UserError as e:
            if blobs.remove_damaged(self._store, blob):
                raise Incomplete(f"blob {blob.digest} was damaged on the disk and has been removed", f"dockless pull {self._source}") from e
            raise

    def finish_all(self) -> None:
        """Unpack every missing layer from its blob in the store, two at a time where a second processor helps."""
        todo = list(self.missing)
        failures: list[BaseException] = []

        def work() -> None:
            while todo and not self._failed:
                try:
                    at = todo.pop(0)
                except IndexError:
                    return
                try:
                    self.finish(at)
                except BaseException as e:
                    failures.append(e)

        others = [threading.Thread(target=work, name="unpack", daemon=True) for _ in range(min(len(todo), os.cpu_count() or 1) - 1)]
        for other in others:
            other.start()
        work()
        for other in others:
            other.join()
        for failure in sorted(failures, key=lambda failure: isinstance(failure, Abandoned)):
            raise failure

    def _settle(self, at: int, depends: bool, size_bytes: int) -> None:
        name = (layer_names.by_chain if depends else layer_names.by_diff)(self._layers, at)
        path, diff_name = self._store.layer(self._place.name, name), layer_names.by_diff(self._layers, at)
        # without its seal the collector, which has this lock alone, would take it for a rest
        with locks.hold(self._store.layer_map_lock(self._place.name), shared=True):
            if os.path.isdir(path):  # without a seal that fits: cut short by a power failure, or tampered with
                remove(os.path.dirname(path), [name], self._place.id_map)
            os.rename(self._staging.pop(at), path)
            layer_names.seal(self._store, self._place.name, name, diff_name=diff_name, size_bytes=size_bytes)
        locks.share(self._held[diff_name])
        self._alone.remove(diff_name)
        log.debug(f"layer {self._layers[at].diff_id} is {name}")
        self._done[at].set()

    def _await_below(self, at: int) -> None:
        for lower in self.missing:
            if lower < at:
                self._done[lower].wait()
        if self._failed:
            raise Abandoned

    def _find(self, at: int) -> str:
        return layer_names.find(self._store, self._place.name, self._layers, at)

    def _is_there(self, at: int) -> bool:
        return at not in self._again and bool(self._find(at))

    def _take(self, name: str) -> None:
        """Take a layer's lock: shared where it is whole, alone where it has to be unpacked."""
        path = self._store.layer_lock(self._place.name, name)
        places = [at for at in range(len(self._layers)) if layer_names.by_diff(self._layers, at) == name]
        while True:
            is_there = all(self._is_there(at) for at in places)
            fd = locks.take(path, shared=is_there)
            if all(self._is_there(at) for at in places) == is_there:
                self._held[name] = fd
                if not is_there:
                    self._alone.add(name)
                return
            os.close(fd)

    def _release(self) -> None:
        for name, fd in self._held.items():
            if name in self._alone:
                os.unlink(self._store.layer_lock(self._place.name, name))
            os.close(fd)
        self._held.clear()

    def _make_staging(self, directory: str, missing: Sequence[int]) -> dict[int, str]:
        names = [layer_names.by_diff(self._layers, at) for at in missing]
        return dict(zip(missing, make_staging(directory, names, self._place.id_map), strict=True))

    def _discard_staging(self) -> None:
        remove(self._store.layer_map(self._place.name), [os.path.basename(path) for path in self._staging.values()], self._place.id_map)

    def _open(self, at: int, stack: ExitStack) -> int:
        """Open a layer's directory, or the one that it is unpacked into, which also stands for a repeated layer's other places."""
        name = layer_names.by_diff(self._layers, at)
        found = self._find(at) if self._is_there(at) else ""
        if not found:
            staging = next(path for other, path in self._staging.items() if layer_names.by_diff(self._layers, other) == name)
            fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            # O_PATH: an image may close its root to this account, and only the namespace can read it then
            path = self._store.layer(self._place.name, found)
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd


def record_map(directory: str, id_map: IdMap) -> None:
    """Make the directory of a map, with the map itself on record. Idempotent."""
    files.make_directory(directory)
    if read_map(directory) != id_map:
        files.write_json(f"{directory}/map.json", id_map)


def read_map(directory: str) -> IdMap | None:
    """Return the id map that a map's directory has on record, None without a usable record."""
    try:
        id_map = views.decode(files.read_json(f"{directory}/map.json"))
        return id_map if layer_names.map_name(id_map) == os.path.basename(directory) else None
    except (OSError, ValueError, TypeError):
        return None


def sweep(store: paths.Store, map_name: str, id_map: IdMap, *, ours: Sequence[str] = ()) -> None:
    """Remove what killed processes left of unpacking: of the layers `ours`, whose locks the caller has alone, and of those nobody has."""
    directory = store.layer_map(map_name)
    entries = [entry for entry in os.listdir(directory) if entry.startswith(".") and not entry.startswith(TRASH)]
    for name in sorted({entry[1:].partition(".")[0] for entry in entries}):
        fd = None if name in ours else locks.try_take(store.layer_lock(map_name, name))
        if fd is None and name not in ours:
            continue
        remove(directory, [entry for entry in entries if entry.startswith(f".{name}.") and not entry.endswith(".lock")], id_map)
        if fd is not None:
            os.unlink(store.layer_lock(map_name, name))
            os.close(fd)


def make_staging(directory: str, entries: Sequence[str], id_map: IdMap) -> list[str]:
    """Make directories that belong to the map's root: only a namespace that has the account and the slice may give them away."""
    made = [f"{directory}/.{entry}.{os.urandom(4).hex()}" for entry in entries]
    wide = _with_account(id_map)
    uid, gid = _inside(wide, 0, id_map), _inside(wide, 1, id_map)

    def make() -> None:
        for path in made:
            os.mkdir(path, 0o755)
            os.chown(path, uid, gid)

    if made:
        userns.call(wide, make)
    return made


def remove(directory: str, entries: Sequence[str], id_map: IdMap) -> None:
    """Remove layers of one map, each after its seal; only a namespace that has all their owners can. Idempotent. Raises OSError."""

    def work() -> None:
        for entry in entries:
            files.remove_tree(f"{directory}/{entry}.seal")
            files.remove_tree(f"{directory}/{entry}")

    if entries:
        userns.call(_with_account(id_map), work)


def _with_account(id_map: IdMap) -> IdMap:
    """Map 0 to this account and 1… to the rest of `id_map`: what may manage files of both."""
    return IdMap(beside(os.getuid(), id_map.uids), beside(os.getgid(), id_map.gids))


def _inside(wide: IdMap, side: int, id_map: IdMap) -> int:
    """Return the id, in `wide`, of the root of `id_map`, on the side of users (0) or groups (1)."""
    outside = next(extent.outside for extent in id_map[side] if extent.inside == 0)
    return next(extent.inside + outside - extent.outside for extent in wide[side] if 0 <= outside - extent.outside < extent.count)

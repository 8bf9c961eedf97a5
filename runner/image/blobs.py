"""The blob store: verified content that enters by rename, and claims that keep it from the collector.

A blob that a pull needs is claimed: its lock is held, exclusively by the one process that downloads it, and shared by all that will record
it in an image. So ten processes download once, and the collector deletes only what it can lock.
"""

import errno
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

from runner import paths
from runner.errors import InfraError
from runner.image import download, images
from runner.kernel import files, locks
from runner.model import Descriptor

_POLL_S = 0.05  # how often a pull looks whether another process has finished its download

Open = Callable[[int], AbstractContextManager[download.Stream]]
Report = Callable[[int], None]


class Claim:
    """The blobs that one pull needs: present, verified, and safe from `collect` until it is closed. Usable from several threads."""

    def __init__(self, store: paths.Store, *, pause_s: float = 0.5) -> None:
        """Claim nothing yet; `pause_s` is the first pause after a broken connection."""
        self._store, self._pause_s = store, pause_s
        self._lock = threading.Lock()
        self._held: list[tuple[str, int]] = []
        self._cancelled = threading.Event()
        self._keeps_parts = True

    def __enter__(self) -> "Claim":
        """Return the claim itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of all blobs: what no image records by now is garbage."""
        while self._held:
            path, fd = self._held.pop()
            os.close(fd)
            _remove_lock(path)

    def cancel(self, *, keep_parts: bool) -> None:
        """Make every `need` that still waits or downloads raise download.Cancelled; `keep_parts` for the next try, or free their space."""
        self._keeps_parts = keep_parts
        self._cancelled.set()

    def need(
        self,
        blob: Descriptor,
        open_at: Open,
        report: Report = lambda have: None,
        *,
        begin: Callable[[str], object] = lambda path: None,
        durable: bool = True,
    ) -> None:
        """Bring a blob into the store, unless it is there, and claim it. Blocks, also while another process downloads it.

        Raises as download.fetch does. `report` hears how many bytes of it are here, `begin` the file that grows, if we download it.
        `durable` as in download.Request: flushing one file makes ext4 write all that is being unpacked beside it.
        """
        request = download.Request(
            blob, open_at, begin=begin, report=report, is_cancelled=self._cancelled.is_set, pause_s=self._pause_s, durable=durable
        )  # fmt: skip
        try:
            self._need(request)
        except BaseException:
            _remove_lock(_lock_path(self._store, blob.digest))  # not claimed, so closing the claim would not
            raise

    def _need(self, request: download.Request) -> None:
        blob = request.blob
        path = _lock_path(self._store, blob.digest)
        while True:
            if self._cancelled.is_set():
                raise download.Cancelled
            shared = _take(path, shared=True)
            if shared is not None:
                if is_present(self._store, blob):
                    with self._lock:
                        self._held.append((path, shared))
                    request.report(blob.size)
                    return
                os.close(shared)
            exclusive = _take(path, shared=False)
            if exclusive is None:
                time.sleep(_POLL_S)
                continue
            try:
                if not is_present(self._store, blob):
                    self._bring(request)
            finally:
                os.close(exclusive)

    def keep(self, raw: bytes, blob: Descriptor) -> None:
        """Store content that is in memory already, and claim it."""
        self.need(blob, lambda offset: _memory(raw, offset))

    def _bring(self, request: download.Request) -> None:
        part, whole = self._store.partial_blob(request.blob.digest), self._store.blob(request.blob.digest)
        try:
            download.fetch(request, part)
        except download.Cancelled:
            if not self._keeps_parts and os.path.exists(part):
                os.unlink(part)
            raise
        try:
            os.rename(part, whole)
            if request.durable:
                files.fsync_directory(self._store.blobs)
        except OSError as e:
            raise InfraError(f"cannot store blob {request.blob.digest} in {self._store.blobs}: {e.strerror}") from e


class FileStream:
    """Part of a regular file as a download.Stream."""

    def __init__(self, file: IO[bytes] | io.FileIO, *, offset: int, total: int) -> None:
        """Read on from where `file` stands; its owner closes it."""
        self.offset, self.total, self._file = offset, total, file

    def read(self, most_bytes: int, /) -> bytes:
        """Return the next bytes, b"" at the end."""
        return self._file.read(most_bytes) or b""


@contextmanager
def _memory(raw: bytes, offset: int) -> Iterator[download.Stream]:
    yield FileStream(io.BytesIO(raw[offset:]), offset=offset, total=len(raw))


def is_present(store: paths.Store, blob: Descriptor) -> bool:
    """Tell whether a blob is in the store with its size; one that was cut short on disk is not."""
    try:
        return os.stat(store.blob(blob.digest)).st_size == blob.size
    except FileNotFoundError:
        return False


def exists(store: paths.Store, digest: str) -> bool:
    """Tell whether a blob is there, whatever it holds."""
    return os.path.exists(store.blob(digest))


def remove_damaged(store: paths.Store, blob: Descriptor) -> bool:
    """Read a stored blob whole, and delete it if it has not the content that its digest says; True if it did. Idempotent."""
    path = store.blob(blob.digest)
    try:
        with open(path, "rb") as file:
            if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == blob.digest:
                return False
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def collect_unused(store: paths.Store) -> int:
    """Delete every blob that no recorded image needs; return the freed bytes. Safe beside pulls; takes images.lock. Idempotent."""
    with locks.hold(store.images_lock):
        return collect(store, keep={blob.digest for _, image in images.all(store) for blob in images.blobs_of(image)})


def collect(store: paths.Store, *, keep: set[str]) -> int:
    """Delete all blobs but those in `keep` and those that a pull has claimed, and what dead downloads left; return the freed bytes.

    The caller holds images.lock from before it computed `keep`: a pull records its image under that lock while it still has its claim.
    Goes on past errors and raises the first as InfraError.
    """
    freed = 0
    errors: list[OSError] = []
    for directory in (store.blobs, store.partial):
        for name in sorted(_listing(directory)):
            if name.endswith(".lock") or (f"sha256:{name}" in keep and directory == store.blobs):
                continue
            try:
                freed += _delete(store, f"{directory}/{name}", f"sha256:{name}") or 0
            except OSError as e:
                errors.append(e)
    remove_idle_locks(store)
    if errors:
        raise InfraError(f"cannot delete from {store.blobs}: {errors[0].strerror}") from errors[0]
    return freed


def discard(store: paths.Store, digest: str) -> bool:
    """Delete one blob unless a pull has claimed it; tell whether it has gone. The caller holds images.lock and knows that none names it."""
    return _delete(store, store.blob(digest), digest) is not None


def discard_download(store: paths.Store, name: str) -> bool:
    """Delete what a download left, unless it goes on; tell whether it has gone."""
    return _delete(store, f"{store.partial}/{name}", f"sha256:{name}") is not None


def remove_idle_locks(store: paths.Store) -> None:
    """Remove the locks of blobs that nobody claims."""
    for name in _listing(store.partial):
        if name.endswith(".lock"):
            _remove_lock(f"{store.partial}/{name}")


def _delete(store: paths.Store, path: str, digest: str) -> int | None:
    """Return the freed bytes; None if the blob is claimed or has gone."""
    fd = locks.try_take(_lock_path(store, digest))
    if fd is None:
        return None
    try:
        size = os.stat(path, follow_symlinks=False).st_blocks * 512
        os.unlink(path)
    except FileNotFoundError:
        return None
    finally:
        os.close(fd)
    return size


def _take(path: str, *, shared: bool) -> int | None:
    try:
        return locks.try_take(path, shared=shared)
    except OSError as e:
        raise InfraError(f"cannot lock {path}: {e.strerror}", "free some space: dockless gc" if e.errno == errno.ENOSPC else "") from e


def _lock_path(store: paths.Store, digest: str) -> str:
    return f"{store.partial_blob(digest)}.lock"


def _remove_lock(path: str) -> None:
    """Remove a lock file that nobody holds; a waiter that has it open notices (see kernel.locks)."""
    try:
        fd = locks.try_take(path)
        if fd is None:
            return
        try:
            os.unlink(path)
        finally:
            os.close(fd)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT):
            raise


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []

"""One blob on its way: a partial file that grows over as many connections as it takes and is verified while it does."""

import errno
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from runner import log
from runner.errors import Busy, InfraError, Temporary, UserError
from runner.model import Descriptor

_CHUNK_BYTES = 256 * 1024
_BREAKS = 5  # connections in a row that bring no progress to speak of
_PROGRESS_BYTES = 32 * 1024  # what a connection must bring to count, and what must arrive within `slow_s`
_DAMAGED = "the registry or a proxy damages it"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Stream(Protocol):
    """Content that arrives. `offset`: where it really starts; `total`: size of the whole as the sender says, -1 if it does not."""

    offset: int
    total: int

    def read(self, most_bytes: int, /) -> bytes:
        """Return some bytes, b"" at the end; Temporary when the sender breaks off."""


class Cancelled(Exception):
    """Another blob of the same pull has failed, so this one is no longer wanted."""


class Request:
    """What to fetch and how.

    `open_at(offset)` connects, `begin(path)` hears which file grows, `report(bytes)` about progress, `is_cancelled()` ends it early.
    """

    def __init__(
        self,
        blob: Descriptor,
        open_at: Callable[[int], AbstractContextManager[Stream]],
        *,
        begin: Callable[[str], object] = lambda path: None,
        report: Callable[[int], None] = lambda have: None,
        is_cancelled: Callable[[], bool] = lambda: False,
        pause_s: float = 0.5,
        slow_s: float = 30.0,
        durable: bool = True,
    ) -> None:
        """Connect to nothing; `pause_s` is the first pause after a broken connection, a sender that hardly sends is left after `slow_s`.

        What is not `durable` may be lost or cut short by a power failure, which its size or its digest tells whoever uses it.
        """
        self.blob, self.open_at, self.begin, self.report, self.is_cancelled = blob, open_at, begin, report, is_cancelled
        self.pause_s, self.slow_s, self.durable = pause_s, slow_s, durable


def fetch(request: Request, path: str) -> None:
    """Leave exactly the blob's content in the file `path`, flushed to disk if it is to be; the caller holds its lock.

    What an earlier try left there is continued. Raises InfraError when size or content is not what the descriptor says or the disk is full;
    then nothing is left. Raises Temporary when the sender breaks off again and again, and Cancelled; then the part stays for the next try.
    """
    try:
        with _Part(path) as part:
            request.begin(path)
            _fill(part, request)
            if not part.has(request.blob) and part.inherited:
                log.debug(f"an earlier part of blob {request.blob.digest} was damaged: once more from the start")
                part.restart()
                _fill(part, request)
            if not part.has(request.blob):
                raise InfraError(f"blob {request.blob.digest} has other content than its digest says", _DAMAGED)
            if request.durable:
                part.flush()
    except OSError as e:
        _unlink(path)
        hint = "free some space: dockless gc" if e.errno in _NO_ROOM else ""
        where = os.path.dirname(path)
        raise InfraError(f"cannot store blob {request.blob.digest} in {where}: {os.strerror(e.errno or errno.EIO)}", hint) from e
    except (Cancelled, Temporary, UserError):
        if os.path.getsize(path) == 0:
            _unlink(path)
        raise
    except InfraError:
        _unlink(path)
        raise


class _Part:
    """The partial file, with a running digest of what it holds."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._hasher = hashlib.sha256()
        self.size = 0
        try:
            while chunk := os.read(self._fd, _CHUNK_BYTES):
                self._hasher.update(chunk)
                self.size += len(chunk)
        except BaseException:
            os.close(self._fd)
            raise
        self.inherited = self.size > 0

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def append(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]
        self._hasher.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hasher, self.size, self.inherited = hashlib.sha256(), 0, False

    def has(self, blob: Descriptor) -> bool:
        return self.size == blob.size and f"sha256:{self._hasher.hexdigest()}" == blob.digest

    def flush(self) -> None:
        os.fsync(self._fd)


def _fill(part: _Part, request: Request) -> None:
    """Append until the part has the blob's size."""
    blob = request.blob
    if part.size > blob.size:
        part.restart()
    breaks, pause, best = 0, request.pause_s, part.size
    while part.size < blob.size:
        try:
            with request.open_at(part.size) as stream:
                if stream.offset != part.size:  # the sender gives no ranges
                    part.restart()
                _copy(stream, part, request)
            reason = f"blob {blob.digest} ended after {part.size} of {blob.size} bytes"
        except Busy:
            raise
        except Temporary as e:
            reason = e.message
        if part.size == blob.size:
            return
        if part.size >= best + _PROGRESS_BYTES:
            breaks, pause, best = 0, request.pause_s, part.size
        breaks += 1
        if breaks >= _BREAKS:
            raise Temporary(f"cannot download blob {blob.digest}: {reason}", "try again later")
        log.debug(f"{reason}; going on in {pause:.1f} s")
        time.sleep(pause)
        pause = min(pause * 2, 30.0)


def _copy(stream: Stream, part: _Part, request: Request) -> None:
    """Append what one connection brings, never a byte more than the blob has."""
    blob = request.blob
    if stream.total not in (-1, blob.size):
        words = f"{stream.total} bytes are offered, {blob.size} were announced"
        raise InfraError(f"blob {blob.digest} has the wrong size: {words}", _DAMAGED)
    window_end, window_size = time.monotonic() + request.slow_s, part.size
    while part.size < blob.size:
        if request.is_cancelled():
            raise Cancelled
        chunk = stream.read(min(_CHUNK_BYTES, blob.size - part.size))
        if not chunk:
            return
        part.append(chunk)
        request.report(part.size)
        if time.monotonic() > window_end:
            if part.size - window_size < _PROGRESS_BYTES:
                raise Temporary(f"blob {blob.digest} arrives too slowly")
            window_end, window_size = time.monotonic() + request.slow_s, part.size
    if stream.total == -1 and stream.read(1):
        raise InfraError(f"blob {blob.digest} has the wrong size: more than {blob.size} bytes arrive", _DAMAGED)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass

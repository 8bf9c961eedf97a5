"""From a layer's blob to a filled directory: decompression and digest in one thread, writing in another, in bounded memory."""

import hashlib
import queue
import threading
from collections.abc import Iterator
from typing import IO

from runner.errors import InfraError, UserError
from runner.image import bounds, decompress, unpack
from runner.kernel import signals

_WAITING = 8  # chunks between the two threads


class _Pump:
    """A thread that reads ahead; both hashlib and the decompressors work outside Python's lock."""

    def __init__(self, file: IO[bytes], what: str, limits: bounds.Bounds) -> None:
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_WAITING)
        self._hasher = hashlib.sha256()
        self._file, self._what, self._limits = file, what, limits
        # a daemon: when unpacking fails the whole process ends, and nobody waits for what is still in the blob
        threading.Thread(target=self._run, name="decompress", daemon=True).start()

    def _run(self) -> None:
        signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGPROF})  # of bounds.in_time, for the thread that waits for this one
        written = 0
        try:
            for chunk in decompress.chunks(self._file):
                written += len(chunk)
                bounds.check_expansion(self._what, self._limits, read=self._file.tell(), written=written)
                self._hasher.update(chunk)
                self._queue.put(chunk)
            self._queue.put(b"")
        except BaseException as e:  # handed on to the thread that can act on it
            self._queue.put(e)

    def chunks(self) -> Iterator[bytes]:
        """Yield what was read ahead; raise here what failed there."""
        while True:
            match self._queue.get():
                case b"":
                    return
                case BaseException() as e:
                    raise e
                case chunk:
                    yield chunk

    def digest(self) -> str:
        """Return the digest of everything; after the last chunk."""
        return f"sha256:{self._hasher.hexdigest()}"


def unpack_verified(file: IO[bytes], root: int, *, diff_id: str, what: str, limits: bounds.Bounds) -> tuple[list[bytes], int]:
    """Fill the directory `root` from a blob whose uncompressed digest is `diff_id`.

    Returns its directories without a description, for `below.inherit`, and the bytes that it takes of a disk.

    Raises UserError for a layer that is damaged, InfraError when the disk fails; the caller removes what is there then. Blocks.
    To be called in a process of its own, which ends after a failure.
    """
    pump = _Pump(file, what, limits)
    tree = unpack.Tree(root, what, limits)
    try:
        implicit = tree.fill(pump.chunks())
    except decompress.Malformed as e:
        raise bounds.refused(what, str(e)) from e
    except MemoryError as e:
        raise InfraError(f"cannot unpack {what}: out of memory") from e
    if pump.digest() != diff_id:
        words = f"{what} contradicts its image: its content is {pump.digest()}, announced was {diff_id}"
        raise UserError(words, "the image is damaged: build it again, or choose another one")
    return implicit, tree.allocated_bytes()

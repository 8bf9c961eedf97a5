"""How much of the machine one layer may take: entries, bytes of a disk that others need too, names kept in memory, and time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from runner.errors import InfraError, UserError
from runner.kernel import signals

_CHECK_DISK_BYTES = 64 * 1024**2
_INODE_BYTES = 4096  # what an entry without content takes of a disk, about
_NAME_BYTES = 200  # what remembering a name takes, besides itself


class Bounds(NamedTuple):
    """How much one layer may unpack to; with `reserve_bytes` of the file system left free. Directories without a member count too."""

    members: int = 5_000_000
    total_bytes: int = 256 * 1024**3
    names_bytes: int = 512 * 1024**2  # of directories and whiteouts, which stay in memory to the end
    reserve_bytes: int = 256 * 1024**2
    expansion: int = 250  # times the blob; gzip reaches 1000 and zstd more with nothing but zeros, what people build seldom 10
    unsuspicious_bytes: int = 8 * 1024**3  # what any blob may expand to
    seconds: float = 1800  # of processor time, with everything in it


DEFAULT = Bounds()


class Meter:
    """Counts what a layer takes, and stops it before it fills the disk of others: UserError past its bounds, InfraError past ours."""

    def __init__(self, root: int, what: str, bounds: Bounds) -> None:
        """Watch the file system of the directory descriptor `root`; `what` names the layer in errors."""
        self._root, self.what, self._bounds = root, what, bounds
        self._members = self._written = self._names = self._unchecked = 0

    def entry(self) -> None:
        """Count a member, or a directory that none describes."""
        self._members += 1
        if self._members > self._bounds.members:
            raise refused(self.what, f"more than {self._bounds.members} members")
        self._disk(_INODE_BYTES)

    def content(self, size: int) -> None:
        """Count bytes of a file or an attribute, before they are written."""
        self._written += size
        if self._written > self._bounds.total_bytes:
            raise refused(self.what, f"more than {self._bounds.total_bytes} bytes of content")
        self._disk(size)

    def name(self, path: bytes) -> None:
        """Count a path that stays in memory."""
        self._names += len(path) + _NAME_BYTES
        if self._names > self._bounds.names_bytes:
            raise refused(self.what, f"names of directories that take more than {self._bounds.names_bytes} bytes")

    def has_room(self, size: int) -> bool:
        """Tell whether more than so many bytes are free."""
        room = os.fstatvfs(self._root)
        return room.f_bavail * room.f_frsize > size

    def _disk(self, size: int) -> None:
        self._unchecked += size
        if self._unchecked > _CHECK_DISK_BYTES:
            self._unchecked = 0
            if not self.has_room(self._bounds.reserve_bytes):
                raise failed(self.what, errno.ENOSPC)


def check_expansion(what: str, bounds: Bounds, *, read: int, written: int) -> None:
    """Refuse a blob of which so many bytes became so many, headers and padding included: what no member announces counts as well."""
    if written > max(bounds.unsuspicious_bytes, bounds.expansion * read):
        raise refused(what, f"its first {read} bytes expand to more than {written}")


@contextmanager
def in_time(what: str, bounds: Bounds) -> Iterator[None]:
    """Raise UserError in the block, wherever it is, when this process has used the processors for too long.

    Only the main thread is told: the others have to block SIGPROF. Waiting for the network or a disk does not count.
    """

    def stop(*_: object) -> None:
        raise refused(what, f"it takes more than {bounds.seconds:g} seconds of processor time")

    before = signals.signal(signals.SIGPROF, stop)
    signals.setitimer(signals.ITIMER_PROF, bounds.seconds)
    try:
        yield
    finally:
        signals.setitimer(signals.ITIMER_PROF, 0)
        signals.signal(signals.SIGPROF, before)


def refused(what: str, words: str) -> UserError:
    """Return the error for a layer that is broken or unusable."""
    return UserError(f"{what} cannot be unpacked: {words}", "the image is damaged or unusable here: build or choose another one")


def failed(what: str, code: int) -> InfraError:
    """Return the error for a layer that this machine could not write, by errno."""
    hint = "free some space: dockless gc" if code in (errno.ENOSPC, errno.EDQUOT) else ""
    return InfraError(f"cannot unpack {what}: {os.strerror(code)}", hint)


def show(name: bytes) -> str:
    """Return a name as a log may print it."""
    text = name[:200].decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or "''"

"""Locks that end with their holder: open-file-description locks (fcntl_locking(2)), never POSIX ones.

A lock file is never unlinked by a waiter; whoever removes one holds its lock, and a waiter that got a lock on a removed file opens it
again.
"""

import errno
import fcntl
import os
import sys
import time
from _struct import pack  # struct.py only passes it on

_F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW = 36, 37, 38


def _request(fd: int, kind: int, command: int) -> int:
    """Return the kind of the answer, which only F_OFD_GETLK changes."""
    # struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
    answer: bytes = fcntl.fcntl(fd, command, pack("hhqqixxxx", kind, os.SEEK_SET, 0, 0, 0))
    return int.from_bytes(answer[:2], sys.byteorder)


def _open_locked(path: str, *, shared: bool, wait: bool, timeout_s: float | None, make: int = os.O_CREAT) -> int:
    """Return a locked descriptor of the file that `path` names now; BlockingIOError if it is taken."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        fd = os.open(path, os.O_RDWR | make | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if wait and deadline is None:
                _request(fd, kind, _F_OFD_SETLKW)
            else:
                _poll(fd, kind, deadline if wait else 0.0)
            try:
                if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                    return fd
            except FileNotFoundError:
                pass  # removed by the previous holder: lock the file that is there now
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _poll(fd: int, kind: int, deadline: float | None) -> None:
    while True:
        try:
            _request(fd, kind, _F_OFD_SETLK)
            return
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if deadline is None or time.monotonic() >= deadline:
                raise BlockingIOError(errno.EAGAIN, "lock is held by another process") from e
        time.sleep(0.02)


class Hold:
    """A lock that a `with` statement holds; see `hold`."""

    def __init__(self, path: str, shared: bool, timeout_s: float | None) -> None:
        self._path, self._shared, self._timeout_s = path, shared, timeout_s
        self._fd = -1

    def __enter__(self) -> int:
        self._fd = _open_locked(self._path, shared=self._shared, wait=True, timeout_s=self._timeout_s)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def hold(path: str, *, shared: bool = False, timeout_s: float | None = None) -> Hold:
    """Hold the lock of the file `path` (made if absent, 0600) in a `with` statement, waiting at most `timeout_s` (None: for ever).

    Raises BlockingIOError at the deadline. Gives the descriptor; a child that inherits it shares the lock.
    """
    return Hold(path, shared, timeout_s)


def take(path: str, *, shared: bool = False) -> int:
    """Return a descriptor that holds the lock until it is closed. Blocks while another process has it."""
    return _open_locked(path, shared=shared, wait=True, timeout_s=None)


def share(fd: int) -> None:
    """Turn a lock that is held for ourselves alone into a shared one; nobody else can have it in between."""
    _request(fd, fcntl.F_RDLCK, _F_OFD_SETLK)


def try_take(path: str, *, shared: bool = False) -> int | None:
    """Return a descriptor that holds the lock until it is closed, or None if another process has it. Never blocks."""
    try:
        return _open_locked(path, shared=shared, wait=False, timeout_s=None)
    except BlockingIOError:
        return None


def take_existing(path: str, *, shared: bool, wait: bool) -> int | None:
    """Return a descriptor that holds the lock of a file that is there; None if there is none or, without `wait`, if it is taken."""
    try:
        return _open_locked(path, shared=shared, wait=wait, timeout_s=None, make=0)
    except (FileNotFoundError, BlockingIOError):
        return None


def is_held(path: str, *, shared: bool = False) -> bool:
    """Tell whether some process has a lock that keeps us from taking ours, without disturbing anybody who takes it right now."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return _request(fd, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, _F_OFD_GETLK) != fcntl.F_UNLCK
    finally:
        os.close(fd)

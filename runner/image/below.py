"""What an unpacked layer takes from the layers below it: the look of directories that it does not describe, or nothing of anything."""

import os
import stat
from collections.abc import Collection

from runner.kernel import syscalls

OPAQUE = "user.overlay.opaque"
_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS


def inherit(root: int, implicit: Collection[bytes], lowers: list[int]) -> None:
    """Give directories that no member of a layer described the owner, mode and times that the layers below show there.

    `lowers` are their descriptors, topmost first. Without this a layer that only adds tmp/x would take the sticky bit from /tmp.
    `implicit` is what unpack.Tree.fill returned; with b"" in it, all that the layers below show is hidden instead.
    """
    if b"" in implicit:
        _hide_all(root, lowers)
        return
    for path in implicit:
        found = _look_down(path, lowers)
        if found is None:
            continue
        fd = syscalls.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE)
        try:
            os.fchown(fd, found.st_uid, found.st_gid)
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
            os.utime(fd, ns=(found.st_mtime_ns, found.st_mtime_ns))
        finally:
            os.close(fd)


def _look_down(path: bytes, lowers: list[int]) -> os.stat_result | None:
    """Return what overlayfs would show of a directory, None where it shows none."""
    parts = path.split(b"/")
    for lower in lowers:
        opaque = False
        for depth in range(1, len(parts) + 1):
            here = b"/".join(parts[:depth])
            try:
                fd = syscalls.openat2(lower, here, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE)
            except FileNotFoundError:
                break
            except OSError:
                return None  # a file, a link or a whiteout: what lies below is hidden
            try:
                if depth == len(parts):
                    return os.fstat(fd)
                opaque = opaque or _is_opaque(fd)
            finally:
                os.close(fd)
        if opaque:
            return None
    return None


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False


def _hide_all(root: int, lowers: list[int]) -> None:
    """Make a whole layer opaque: overlayfs heeds the mark on every directory but the root (ovl_get_root in fs/overlayfs/super.c)."""
    for name in {name for lower in lowers for name in _names(lower)}:
        try:
            mode = os.stat(name, dir_fd=root, follow_symlinks=False).st_mode
        except FileNotFoundError:
            make_whiteout(root, name)
            continue
        if stat.S_ISDIR(mode):
            make_opaque(root, name)


def make_whiteout(parent: int, name: str | bytes) -> None:
    """Hide what the layers below have under a name (overlayfs.rst, "whiteouts and opaque directories")."""
    os.mknod(name, stat.S_IFCHR | 0o000, os.makedev(0, 0), dir_fd=parent)


def make_opaque(parent: int, name: str | bytes) -> None:
    """Hide all that the layers below have in a directory of this layer."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.setxattr(fd, OPAQUE, b"y")
    finally:
        os.close(fd)


def _names(directory: int) -> list[str]:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)  # `directory` may be one of O_PATH
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)

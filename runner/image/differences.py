"""Two unpacked layers side by side: what makes one other than the other. Runs where the owners of all files are mapped."""

import os
import stat

from runner.kernel import files

_CHUNK_BYTES = 1024**2


def first(one: str, other: str) -> str:
    """Return the first difference of two directories in words, "" where there is none: names, kinds, owners, modes, links, content.

    Times of directories do not count: those that no layer describes have that of the unpacking. Follows nothing. Raises OSError.
    """
    left, right = files.Walk(one), files.Walk(other)
    try:
        left.enter(left.subdirectories.pop(), open_up=False)
        right.enter(right.subdirectories.pop(), open_up=False)
        root = _of_directories(left.here, right.here)
        found = f"{one} has {root}" if root else _of_entries(left, right.here)
        if found:
            return found
        while not left.is_at_start():
            if left.subdirectories:
                name = left.subdirectories.pop()
                left.enter(name, open_up=False)
                right.enter(name, open_up=False)
                found = _of_entries(left, right.here)
                if found:
                    return found
            else:
                left.leave()
                right.leave()
        return ""
    finally:
        left.close()
        right.close()


def _of_entries(left: files.Walk, right: int) -> str:
    """Compare what is right in two directories, and note the subdirectories for later."""
    names, others = set(os.listdir(left.here)), set(os.listdir(right))
    for name in sorted(names ^ others):
        return f"{left.path_of(name)} is only in {'the second' if name in others else 'the first'}"
    for name in sorted(names):
        found = _of_entry(left.here, right, name)
        if found:
            return f"{left.path_of(name)} has {found}"
        if stat.S_ISDIR(os.stat(name, dir_fd=left.here, follow_symlinks=False).st_mode):
            left.subdirectories.append(name)
    return ""


def _of_directories(left: int, right: int) -> str:
    one, other = os.fstat(left), os.fstat(right)
    if (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid):
        return "another owner or mode"
    return "other attributes" if _attributes_of(left) != _attributes_of(right) else ""


def _of_entry(left: int, right: int, name: str) -> str:
    one, other = (os.stat(name, dir_fd=fd, follow_symlinks=False) for fd in (left, right))
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return "another kind"
    if (one.st_mode, one.st_uid, one.st_gid, one.st_rdev) != (other.st_mode, other.st_uid, other.st_gid, other.st_rdev):
        return "another owner or mode"
    if stat.S_ISLNK(one.st_mode) and os.readlink(name, dir_fd=left) != os.readlink(name, dir_fd=right):
        return "another target"
    if stat.S_ISDIR(one.st_mode):
        return "other attributes" if _attributes(left, name) != _attributes(right, name) else ""
    if (one.st_size, one.st_mtime_ns, one.st_nlink) != (other.st_size, other.st_mtime_ns, other.st_nlink):
        return "another size, time or number of names"
    if stat.S_ISREG(one.st_mode):
        if _attributes(left, name) != _attributes(right, name):
            return "other attributes"
        if not _is_same_content(left, right, name):
            return "other content"
    return ""


def _attributes(directory: int, name: str) -> dict[str, bytes]:
    fd = _open(directory, name)
    try:
        return _attributes_of(fd)
    finally:
        os.close(fd)


def _attributes_of(fd: int) -> dict[str, bytes]:
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}


def _is_same_content(left: int, right: int, name: str) -> bool:
    with open(_open(left, name), "rb", buffering=0) as one, open(_open(right, name), "rb", buffering=0) as other:
        while chunk := one.read(_CHUNK_BYTES):
            if chunk != other.read(_CHUNK_BYTES):
                return False
        return not other.read(1)


def _open(directory: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)

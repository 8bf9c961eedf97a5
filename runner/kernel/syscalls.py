"""System calls that Python's standard library lacks, named as in their man pages; each raises OSError.

Constants are spelled as in the kernel's headers. The only file that calls into C, through the C half of CPython's ctypes: all that its
Python half would add here are the types of every platform, and 1 ms of imports for each step.
"""

import _ctypes
import os
from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Number = _ctypes._SimpleCData[int]
else:
    _Number = _ctypes._SimpleCData  # which knows no brackets

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 2, 4, 8, 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 15, 36, 38

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
AT_FDCWD = -100
OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 1, 0x8000, 0x1000, 0x4, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 0x1, 0x2, 0x4, 0x00100000
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_SYS_OPENAT2 = 437  # the same number on every architecture: the call is younger than the unified table
_SYS_CLOSE_RANGE = 436
CLOSE_RANGE_CLOEXEC = 4
_SOCK_DGRAM = 2


class _Int(_Number):
    _type_ = "i"


class _UnsignedInt(_Number):
    _type_ = "I"


class _UnsignedLong(_Number):
    _type_ = "L"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class _Libc:
    """What is loaded already, as CFuncPtr asks for it."""

    _handle = _ctypes.dlopen(None, os.RTLD_NOW)  # type: ignore[arg-type]  # dlopen(3) takes NULL


def _function(name: str) -> _Function:
    return _Function((name, _Libc))  # type: ignore[arg-type]  # the code asks for nothing but the handle


_unshare, _setns, _mount, _umount2, _prctl = map(_function, ("unshare", "setns", "mount", "umount2", "prctl"))
_socket, _sethostname, _syncfs, _syscall = map(_function, ("socket", "sethostname", "syncfs", "syscall"))


def _check(result: int, name: str, path: str | None = None) -> int:
    if result < 0:
        number = _ctypes.get_errno()
        words = os.strerror(number)
        raise OSError(number, f"{name}: {words}", path)
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """setns(2); `fd` is a namespace or a pidfd, `flags` then says which of its namespaces (Linux 5.8)."""
    _check(_setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2); `kind` "" for binds and remounts. The kernel cuts `data` at one page."""
    if len(data.encode()) >= os.sysconf("SC_PAGESIZE"):
        raise OSError(7, "mount: options are longer than one page", target)
    result = _mount(os.fsencode(source), os.fsencode(target), kind.encode() or None, _UnsignedLong(flags), os.fsencode(data) or None)
    _check(result, "mount", target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_umount2(os.fsencode(target), flags), "umount2", target)


def prctl(option: int, value: int) -> None:
    """prctl(2) for options with one integer."""
    _check(_prctl(option, _UnsignedLong(value), 0, 0, 0), "prctl")


def socket(family: int) -> int:
    """socket(2) for datagrams, the kind that ioctl(2) of netdevice(7) wants; returns the descriptor."""
    return _check(_socket(family, _SOCK_DGRAM | os.O_CLOEXEC, 0), "socket")


def sethostname(name: str) -> None:
    """sethostname(2), in the caller's UTS namespace."""
    raw = name.encode()
    _check(_sethostname(raw, _UnsignedLong(len(raw))), "sethostname")


def openat2(dirfd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """openat2(2): by default `path` is resolved as if `dirfd` were the root. O_CLOEXEC is added."""
    how = pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    raw = os.fsencode(path)
    return _check(_syscall(_SYS_OPENAT2, dirfd, raw, how, _UnsignedLong(len(how))), "openat2", os.fsdecode(raw))


def syncfs(fd: int) -> None:
    """syncfs(2): write everything of one file system to its disk."""
    _check(_syncfs(fd), "syncfs")


def close_range(first: int, last: int = 0xFFFFFFFF, *, flags: int = 0) -> None:
    """close_range(2): close every descriptor from `first` to `last`, with CLOSE_RANGE_CLOEXEC (Linux 5.11) at the next exec."""
    _check(_syscall(_SYS_CLOSE_RANGE, _UnsignedInt(first), _UnsignedInt(last), _UnsignedInt(flags)), "close_range")


def open_tree(fd: int, flags: int) -> int:
    """open_tree(2) of what the descriptor `fd` names; with OPEN_TREE_CLONE a mount of it that is nowhere yet. O_CLOEXEC is added."""
    return _check(_syscall(_SYS_OPEN_TREE, fd, b"", _UnsignedInt(flags | AT_EMPTY_PATH | os.O_CLOEXEC)), "open_tree")


def mount_setattr(fd: int, attributes: int, *, userns_fd: int = 0) -> None:
    """mount_setattr(2): set attributes of the mount `fd`; with MOUNT_ATTR_IDMAP ids are shown through the user namespace `userns_fd`."""
    raw = pack("QQQQ", attributes, 0, 0, userns_fd)
    _check(_syscall(_SYS_MOUNT_SETATTR, fd, b"", _UnsignedInt(AT_EMPTY_PATH), raw, _UnsignedLong(len(raw))), "mount_setattr")


def move_mount(fd: int, target: int) -> None:
    """move_mount(2): attach the mount `fd` over the directory descriptor `target`."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check(_syscall(_SYS_MOVE_MOUNT, fd, b"", target, b"", _UnsignedInt(flags)), "move_mount")

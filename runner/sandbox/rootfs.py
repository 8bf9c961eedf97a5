"""A container's root: an overlay over its layers, checked before a runtime sees it, with every mount point in place.

Runs inside the job (the keeper's mount and user namespace), as its root: it may manage files of the account and of the build user.
"""

from __future__ import annotations

import errno
import os
import stat

from runner import errors
from runner.kernel import process, syscalls
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


class Overlay(NamedTuple):
    """An overlay mount as data: `lowers` topmost first; `directory` holds upper and work; `target` is the mount point."""

    lowers: tuple[str, ...]
    directory: str
    target: str

    def working_directory(self) -> str:
        """Return the directory that the option string is relative to: what all layers have in common."""
        return os.path.commonpath([os.path.dirname(lower) for lower in self.lowers])

    def options(self) -> str:
        """Return the mount options. Relative lower paths keep 127 layers within one page."""
        base = self.working_directory()
        lowers = ":".join(_escape(os.path.relpath(lower, base)) for lower in self.lowers)
        return (
            f"lowerdir={lowers},upperdir={_escape(self.directory + '/upper')},workdir={_escape(self.directory + '/work')}"
            # userxattr: trusted.* is closed to user namespaces; volatile: the upper directory ends with the job, so nothing is synced
            ",userxattr,volatile"
        )


def _escape(path: str) -> str:
    """Escape what overlayfs separates its options and layers by."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def mount(overlay: Overlay, *, owner: tuple[int, int]) -> None:
    """Make the overlay's directories, owned by `owner`, and mount it. Changes the working directory. Raises InfraError."""
    for path in (overlay.directory, f"{overlay.directory}/upper", f"{overlay.directory}/work"):
        os.makedirs(path, 0o755, exist_ok=True)
        os.chown(path, *owner)
    os.chmod(f"{overlay.directory}/upper", _mode_of(overlay.lowers[0]))
    os.makedirs(overlay.target, 0o755, exist_ok=True)
    os.chdir(overlay.working_directory())
    try:
        syscalls.mount("overlay", overlay.target, "overlay", syscalls.MS_NODEV, overlay.options())
    except OSError as e:
        hint = ""
        if e.errno in (errno.EINVAL, errno.EPERM):
            hint = "is the state directory itself on an overlay, on NFS, or the kernel older than 5.13? `dockless doctor` tells"
        raise errors.InfraError(f"cannot mount overlay on {overlay.target}: {os.strerror(e.errno or 0)}", hint) from e
    finally:
        os.chdir("/")


def _mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def check(root: int) -> None:
    """Refuse a root whose /dev, /proc or /sys is anything but a directory (CVE-2026-47766: crun follows a link there)."""
    for name in ("dev", "proc", "sys"):
        try:
            mode = os.stat(name, dir_fd=root, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            raise errors.UserError(f"image cannot be used: its /{name} is not a directory", "such an image is either broken or an attack")


def make_mount_point(root: int, target: str, *, directory: bool, owner: tuple[int, int]) -> None:
    """Make sure that `target` exists below the root: made with its parents, owned by `owner`, if it does not. Idempotent.

    Every path is resolved as if `root` were /, so links of the image cannot lead outside. UserError if something else is there.
    """
    parts = [part for part in target.split("/") if part]
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        last = depth == len(parts)
        wanted_directory = directory or not last
        try:
            fd = syscalls.openat2(root, path, os.O_PATH, resolve=_RESOLVE)
        except FileNotFoundError:
            _make(root, "/".join(parts[: depth - 1]) or ".", parts[depth - 1], directory=wanted_directory, owner=owner)
            continue
        except OSError as e:
            raise errors.UserError(f"mount point {target} cannot be used in this image: {os.strerror(e.errno or 0)}") from e
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        os.close(fd)
        if is_directory != wanted_directory:
            kind = "directory" if wanted_directory else "file"
            raise errors.UserError(f"mount point {target} cannot be used in this image: /{path} is not a {kind}")


def _make(root: int, parent: str, name: str, *, directory: bool, owner: tuple[int, int]) -> None:
    parent_fd = syscalls.openat2(root, parent, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
            os.chmod(name, 0o755, dir_fd=parent_fd)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent_fd))
        os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
    except FileExistsError as e:
        raise errors.UserError(f"mount point cannot be used in this image: {parent}/{name} is a dangling link") from e
    finally:
        os.close(parent_fd)


def bind(source: str, target: str, *, read_only: bool, strictly: bool = False) -> None:
    """Bind a host path to `target` in the keeper's own tree (a directory or a file, made here), so that containers need no way to it.

    `strictly`: the path was judged with all links followed, and what is shown may be reached through none; UserError if there is one now.
    """
    if strictly:
        _bind_without_links(source, target)
    else:
        _make_target(target, directory=os.path.isdir(source))
        syscalls.mount(source, target, "", syscalls.MS_BIND | syscalls.MS_REC)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | (syscalls.MS_RDONLY if read_only else 0)
    try:
        syscalls.mount("none", target, "", syscalls.MS_REMOUNT | syscalls.MS_BIND | flags)
    except PermissionError:
        # the host's own mount has locked flags (noexec, noatime, …) that a user namespace must repeat
        syscalls.mount("none", target, "", syscalls.MS_REMOUNT | syscalls.MS_BIND | flags | _locked_flags(target))


def lock(target: str) -> None:
    """Make the flags of a mount final, also for a container that may mount: read-only, it can never be made writable again.

    What a user namespace got from another one is locked (mount_namespaces(7)), and so is a copy of it that comes back. Raises OSError.
    """
    import socket  # only containers of engines are locked, and others need not wait for it

    ours, theirs = socket.socketpair()

    def copy() -> None:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        tree = syscalls.open_tree(os.open(target, os.O_PATH | os.O_CLOEXEC), syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
        socket.send_fds(theirs, [b"."], [tree])

    with ours, theirs:
        process.fork_call(copy)
        tree = socket.recv_fds(ours, 1, 1)[1][0]
    try:
        syscalls.umount2(target, syscalls.MNT_DETACH)
        _attach(tree, target)
    finally:
        os.close(tree)


def _attach(tree: int, target: str) -> None:
    """Mount a detached tree on what is at `target` now."""
    place = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.move_mount(tree, place)
    finally:
        os.close(place)


def _make_target(target: str, *, directory: bool) -> None:
    if directory:
        os.mkdir(target, 0o755)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def _bind_without_links(source: str, target: str) -> None:
    """Bind what is opened, so that nobody who can rename a directory on the way changes what it is in between."""
    try:
        fd = syscalls.openat2(syscalls.AT_FDCWD, source, os.O_PATH, resolve=syscalls.RESOLVE_NO_SYMLINKS)
    except OSError as e:
        raise errors.UserError(f"volume {source} cannot be used: {os.strerror(e.errno or 0)}", "it was there a moment ago") from e
    try:
        _make_target(target, directory=stat.S_ISDIR(os.fstat(fd).st_mode))
        tree = syscalls.open_tree(fd, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
        try:
            _attach(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(fd)


_STATVFS_FLAGS = ((os.ST_RDONLY, syscalls.MS_RDONLY), (os.ST_NOEXEC, syscalls.MS_NOEXEC), (os.ST_NOATIME, 1024), (os.ST_NODIRATIME, 2048))


def _locked_flags(path: str) -> int:
    present = os.statvfs(path).f_flag
    return sum(flag for bit, flag in _STATVFS_FLAGS if present & bit)


def write_owned(path: str, text: str, *, owner: tuple[int, int], mode: int = 0o644) -> None:
    """Write a small file that belongs to the container (hosts, hostname, resolv.conf)."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
    os.chown(path, *owner)


def owner_of_root(extents: Sequence[tuple[int, int, int]]) -> int:
    """Return the outside id of inside id 0."""
    for inside, outside, _ in extents:
        if inside == 0:
            return outside
    raise errors.Bug("id map does not map 0")

"""One layer's tar -> a directory that overlayfs can use as a lower one (OCI image-spec layer.md, kernel overlayfs.rst).

Runs as root of a user namespace that maps nothing but the layer's owner, and resolves every name beneath the directory's descriptor, so
what a layer says can reach nothing outside. A whiteout hides what lies below and never what the layer itself wrote.
"""

import errno
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from runner.errors import InfraError, UserError
from runner.image import tar
from runner.kernel import files, syscalls

OPAQUE = "user.overlay.opaque"
_WHITEOUT = b".wh."
_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
# the machine's fault, not the layer's
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EROFS, errno.EMFILE, errno.ENFILE)
_NO_XATTR = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)
_LONGEST_LINK = 4095


class Bounds(NamedTuple):
    """How much one layer may unpack to; with `reserve_bytes` of the file system left free."""

    members: int = 5_000_000
    total_bytes: int = 256 * 1024**3
    reserve_bytes: int = 256 * 1024**2


class Tree:
    """The directory that a layer is unpacked into."""

    def __init__(self, root: int, what: str, bounds: Bounds) -> None:
        """Work beneath the directory descriptor `root`, which stays the caller's; `what` names the layer in errors."""
        self.root, self._what, self._bounds = root, what, bounds
        self.implicit: list[bytes] = []  # directories that no member described
        self._times: list[tuple[bytes, int]] = []  # of directories: what is written into them later changes them
        self._parent: tuple[bytes, int] | None = None
        self._hidden: set[bytes] = set()  # paths that a whiteout of this layer stands for
        self._written = self._unchecked = self._members = 0

    def fill(self, chunks: Iterable[bytes]) -> list[bytes]:
        """Unpack a whole archive and read it to its very end; return the directories that no member described, parents first.

        Raises UserError for a layer that is broken or unusable, InfraError when the disk is. The caller removes what is there then.
        """
        reader = tar.Reader(chunks)
        os.fchmod(self.root, 0o755)
        try:
            while member := reader.next():
                self._members += 1
                if self._members > self._bounds.members:
                    raise self._refused(f"more than {self._bounds.members} members")
                self._add(reader, member)
            reader.drain()
            self._set_times()
        except tar.Malformed as e:
            raise self._refused(str(e)) from e
        finally:
            self._forget_parent()
        return [path for path in self.implicit if self._is_directory(path)]

    def _add(self, reader: tar.Reader, member: tar.Member) -> None:
        parts = [part for part in member.path.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self._refused(f"{show(member.path)} leads upwards")
        try:
            if not parts:
                self._describe_root(member)
            elif parts[-1].startswith(_WHITEOUT):
                self._whiteout(b"/".join(parts[:-1]), parts[-1])
            else:
                self._place(reader, member, b"/".join(parts[:-1]), parts[-1])
        except OSError as e:
            words = os.strerror(e.errno or errno.EIO)
            if e.errno in _OURS:
                hint = "free some space: dockless gc" if e.errno in (errno.ENOSPC, errno.EDQUOT) else ""
                raise InfraError(f"cannot unpack {self._what}: {words}", hint) from e
            raise self._refused(f"{show(member.path)} cannot be made: {words}") from e

    def _describe_root(self, member: tar.Member) -> None:
        if member.kind != "directory":
            raise self._refused(f"its root is a {member.kind}")
        self._describe(self.root, member)
        self._times.append((b"", member.mtime_ns))

    def _place(self, reader: tar.Reader, member: tar.Member, parent_path: bytes, name: bytes) -> None:
        path = parent_path + b"/" + name if parent_path else name
        parent = self._open_parent(parent_path)
        if member.kind == "directory":
            self._make_directory(parent, name, path, member)
            return
        if member.kind == "hardlink":
            self._link(parent, name, member)
            return
        self._remove(parent, name, path)
        if member.kind == "file":
            self._write(reader, member, parent, name)
        elif member.kind == "symlink":
            if not 0 < len(member.link) <= _LONGEST_LINK:
                raise self._refused(f"{show(member.path)} links to nothing or too far")
            os.symlink(member.link, name, dir_fd=parent)
            os.chown(name, *self._owner(member), dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)
            self._forget_parent()
        elif member.kind == "fifo":
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chown(name, *self._owner(member), dir_fd=parent, follow_symlinks=False)
            os.chmod(name, member.mode, dir_fd=parent)
        # device nodes are passed over: nobody without privilege may make them, and each container gets its own /dev

    def _make_directory(self, parent: int, name: bytes, path: bytes, member: tar.Member) -> None:
        hidden = path in self._hidden
        try:
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            is_directory = False
        else:
            if not is_directory:
                self._remove(parent, name, path)
                parent = self._open_parent(path[: -len(name)].rstrip(b"/"))
        if not is_directory:
            os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._describe(fd, member)
            if hidden:
                os.setxattr(fd, OPAQUE, b"y")
        finally:
            os.close(fd)
        self._times.append((path, member.mtime_ns))
        if path in self.implicit:
            self.implicit.remove(path)

    def _write(self, reader: tar.Reader, member: tar.Member, parent: int, name: bytes) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            at = 0
            for offset, piece in reader.content(member):
                if offset != at:
                    os.lseek(fd, offset, os.SEEK_SET)
                at = offset + len(piece)
                self._count(len(piece))
                while piece:
                    piece = piece[os.write(fd, piece) :]
            if at < member.size:
                os.ftruncate(fd, member.size)
            self._describe(fd, member)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _link(self, parent: int, name: bytes, member: tar.Member) -> None:
        """Link to another file of this layer. What the member says about mode and owner is the other file's business."""
        there = [part for part in member.link.split(b"/") if part not in (b"", b".")]
        if not there or b".." in there:
            raise self._refused(f"{show(member.path)} is a hard link that leads upwards or nowhere")
        try:
            source = syscalls.openat2(self.root, b"/".join(there[:-1]) or b".", os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise self._refused(f"{show(member.path)} is a hard link to {show(member.link)}, which is not in this layer") from e
        try:
            try:
                wanted = os.stat(there[-1], dir_fd=source, follow_symlinks=False)
            except FileNotFoundError as e:
                raise self._refused(f"{show(member.path)} is a hard link to {show(member.link)}, which is not in this layer") from e
            try:
                if os.path.samestat(wanted, os.stat(name, dir_fd=parent, follow_symlinks=False)):
                    return
            except FileNotFoundError:
                pass
            self._remove(parent, name, b"")
            os.link(there[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _whiteout(self, parent_path: bytes, marker: bytes) -> None:
        """Hide what lower layers have: a character device 0:0 for a name, an xattr for all of a directory."""
        if marker == b".wh..wh..opq":
            self._forget_parent()
            fd = self._open_parent(parent_path)
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                os.setxattr(readable, OPAQUE, b"y")
            finally:
                os.close(readable)
            return
        name = marker.removeprefix(_WHITEOUT)
        if name.startswith(_WHITEOUT):
            return  # AUFS kept notes of its own under such names; docker leaves them out as well
        if name in (b"", b".", b".."):
            raise self._refused(f"{show(marker)} is a whiteout of nothing that could exist")
        path = parent_path + b"/" + name if parent_path else name
        parent = self._open_parent(parent_path)
        self._hidden.add(path)
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            os.mknod(name, stat.S_IFCHR | 0o000, os.makedev(0, 0), dir_fd=parent)
            return
        if stat.S_ISDIR(mode):  # this layer has made it new
            self.implicit = [one for one in self.implicit if one != path]
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.setxattr(fd, OPAQUE, b"y")
            finally:
                os.close(fd)

    def _open_parent(self, path: bytes) -> int:
        """Return the directory of a path, made with its parents where no member described it. Ours until the next call."""
        if self._parent and self._parent[0] == path:
            return self._parent[1]
        self._forget_parent()
        try:
            fd = self._open_directory(path)
        except FileNotFoundError:
            self._make_parents(path)
            fd = self._open_directory(path)
        except NotADirectoryError:
            # a file or whiteout of this layer stands where this member needs a directory: the later one wins
            self._make_parents(path)
            fd = self._open_directory(path)
        self._parent = (path, fd)
        return fd

    def _open_directory(self, path: bytes) -> int:
        return syscalls.openat2(self.root, path or b".", os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE)

    def _make_parents(self, path: bytes) -> None:
        parts = path.split(b"/")
        for depth in range(1, len(parts) + 1):
            here = b"/".join(parts[:depth])
            try:
                os.close(self._open_directory(here))
                continue
            except FileNotFoundError:
                pass
            except NotADirectoryError:
                pass
            parent = self._open_directory(b"/".join(parts[: depth - 1]))
            try:
                name = parts[depth - 1]
                hidden = here in self._hidden
                self._remove(parent, name, here)
                os.mkdir(name, 0o755, dir_fd=parent)
                if hidden:
                    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                    try:
                        os.setxattr(fd, OPAQUE, b"y")
                    finally:
                        os.close(fd)
                else:
                    self.implicit.append(here)
            finally:
                os.close(parent)

    def _forget_parent(self) -> None:
        if self._parent:
            os.close(self._parent[1])
            self._parent = None

    def _remove(self, parent: int, name: bytes, path: bytes) -> None:
        """Make room for a member: what this layer has put there before goes."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            os.fchdir(parent)  # this process does nothing else with its directory
            files.remove_tree(os.fsdecode(name))
            gone = path + b"/"
            self.implicit = [one for one in self.implicit if one != path and not one.startswith(gone)]
            if self._parent and self._parent[1] != parent:
                self._forget_parent()

    def _describe(self, fd: int, member: tar.Member) -> None:
        """Set owner, mode and extended attributes; in this order, since chown(2) takes setuid bits and capabilities away."""
        os.fchown(fd, *self._owner(member))
        os.fchmod(fd, member.mode)
        for raw_name, value in member.xattrs:
            name = os.fsdecode(raw_name)
            # overlayfs reads user.overlay.* as orders; the rest means nothing in a user namespace or would be refused
            if name != "security.capability" and (not name.startswith("user.") or name.startswith("user.overlay.")):
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as e:
                if e.errno not in _NO_XATTR:
                    raise

    def _owner(self, member: tar.Member) -> tuple[int, int]:
        if member.uid > 65535 or member.gid > 65535:
            owner = f"{member.uid}:{member.gid}"
            raise self._refused(f"{show(member.path)} belongs to {owner}, and a container has the ids 0 to 65535")
        return member.uid, member.gid

    def _count(self, size: int) -> None:
        """Stop a bomb before it fills the disk of everybody else."""
        self._written += size
        self._unchecked += size
        if self._written > self._bounds.total_bytes:
            raise self._refused(f"more than {self._bounds.total_bytes} bytes of content")
        if self._unchecked > 64 * 1024**2:
            self._unchecked = 0
            room = os.fstatvfs(self.root)
            if room.f_bavail * room.f_frsize < self._bounds.reserve_bytes:
                raise InfraError(f"cannot unpack {self._what}: {os.strerror(errno.ENOSPC)}", "free some space: dockless gc")

    def _set_times(self) -> None:
        for path, mtime_ns in reversed(self._times):
            try:
                fd = syscalls.openat2(self.root, path or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE)
            except OSError:
                continue  # replaced by a later member
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)

    def _is_directory(self, path: bytes) -> bool:
        try:
            os.close(syscalls.openat2(self.root, path, os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE | syscalls.RESOLVE_NO_SYMLINKS))
        except OSError:
            return False
        return True

    def _refused(self, words: str) -> UserError:
        return UserError(f"{self._what} cannot be unpacked: {words}", "the image is damaged or unusable here: build or choose another one")


def inherit(root: int, implicit: Iterable[bytes], lowers: list[int]) -> None:
    """Give directories that no member of a layer described the owner, mode and times that the layers below show there.

    `lowers` are their descriptors, topmost first. Without this a layer that only adds tmp/x would take the sticky bit from /tmp.
    """
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
                fd = syscalls.openat2(lower, here, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE | syscalls.RESOLVE_NO_SYMLINKS)
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


def show(name: bytes) -> str:
    """Return a name as a log may print it."""
    text = name[:200].decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or "''"

"""One layer's tar -> a directory that overlayfs can use as a lower one (OCI image-spec layer.md, kernel overlayfs.rst).

Runs as root of a user namespace that maps nothing but the layer's owner, and resolves every name beneath the directory's descriptor, so
what a layer says can reach nothing outside. A whiteout hides what lies below and never what the layer itself wrote.
"""

import bisect
import errno
import os
import stat
from collections.abc import Iterable

from runner.errors import UserError
from runner.image import attributes, below, bounds, tar
from runner.kernel import files, syscalls

_WHITEOUT = b".wh."
_OPAQUE_MARKER = b".wh..wh..opq"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
# the machine's fault, not the layer's
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EROFS, errno.EMFILE, errno.ENFILE)
_LONGEST_LINK = 4095
_BLOCK_BYTES = 4096


class Tree:
    """The directory that a layer is unpacked into."""

    def __init__(self, root: int, what: str, limits: bounds.Bounds) -> None:
        """Work beneath the directory descriptor `root`, which stays the caller's; `what` names the layer in errors."""
        self.root, self._what = root, what
        self._meter = bounds.Meter(root, what, limits)
        self._implicit: dict[bytes, None] = {}  # directories that no member described, in order; some may be gone
        self._times: dict[bytes, int] = {}  # of directories: what is written into them later changes them
        self._hidden: set[bytes] = set()  # paths that a whiteout of this layer stands for
        self._whiteouts: dict[bytes, None] = {}  # those that were made
        self._opaque: set[bytes] = set()  # directories that nothing below shines through
        self._passed_over: set[bytes] = set()  # devices
        self._parent: tuple[bytes, int] | None = None
        self._blocks = 1  # of _BLOCK_BYTES; the root has one

    def allocated_bytes(self) -> int:
        """Return about how much of a disk is taken: whole blocks of files and directories."""
        return self._blocks * _BLOCK_BYTES

    def fill(self, chunks: Iterable[bytes]) -> list[bytes]:
        """Unpack a whole archive and read it to its very end; return what depends on the layers below, for `below.inherit`.

        That is the directories that no member described, parents first; and b"" if the root is opaque, which overlayfs does not know.
        Raises UserError for a layer that is broken or unusable, InfraError when the disk is. The caller removes what is there then.
        """
        reader = tar.Reader(chunks)
        os.fchmod(self.root, 0o755)
        try:
            while member := reader.next():
                self._meter.entry()
                self._add(reader, member)
            reader.drain()
            self._drop_idle_whiteouts()
            self._set_times()
        except tar.Malformed as e:
            raise self._refused(str(e)) from e
        finally:
            self._forget_parent()
        implicit = [path for path in self._implicit if not self._is_beneath_opaque(path) and self._is_directory(path)]
        return ([b""] if b"" in self._opaque else []) + implicit

    def _add(self, reader: tar.Reader, member: tar.Member) -> None:
        parts = [part for part in member.path.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self._refused(f"{bounds.show(member.path)} leads upwards")
        if _WHITEOUT in member.path and self._is_beneath_whiteout(parts[:-1]):
            return
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
                raise bounds.failed(self._what, e.errno) from e
            raise self._refused(f"{bounds.show(member.path)} cannot be made: {words}") from e

    def _describe_root(self, member: tar.Member) -> None:
        if member.kind != "directory":
            raise self._refused(f"its root is a {member.kind}")
        attributes.describe(self.root, member, self._meter)
        self._times[b""] = member.mtime_ns

    def _is_beneath_whiteout(self, parents: list[bytes]) -> bool:
        """Tell whether a member belongs to AUFS's own notes; below any other whiteout there can be nothing."""
        for part in parents:
            if part.startswith(_WHITEOUT + _WHITEOUT):
                return True
            if part.startswith(_WHITEOUT):
                raise self._refused(f"{bounds.show(part)} is a whiteout and no directory")
        return False

    def _place(self, reader: tar.Reader, member: tar.Member, parent_path: bytes, name: bytes) -> None:
        path = parent_path + b"/" + name if parent_path else name
        parent = self._open_parent(parent_path)
        match member.kind:
            case "directory":
                self._make_directory(parent, name, path, member)
            case "file":
                self._write(reader, member, parent, name)
            case "symlink":
                self._symlink(parent, name, member)
            case "hardlink":
                self._link(parent, name, path, member)
            case "fifo":
                self._remove(parent, name)
                os.mkfifo(name, 0o600, dir_fd=parent)
                os.chown(name, *attributes.owner(member, self._what), dir_fd=parent, follow_symlinks=False)
                os.chmod(name, member.mode, dir_fd=parent)
                os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)
            case _:
                # device nodes are passed over: nobody without privilege may make them, and each container gets its own /dev
                self._remove(parent, name)
                self._meter.name(path)
                self._passed_over.add(path)

    def _make_directory(self, parent: int, name: bytes, path: bytes, member: tar.Member) -> None:
        self._blocks += 1
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._remove(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            attributes.describe(fd, member, self._meter)
        finally:
            os.close(fd)
        if path in self._hidden:
            self._make_opaque(parent, name, path)
        self._meter.name(path)
        self._times[path] = member.mtime_ns
        self._implicit.pop(path, None)

    def _symlink(self, parent: int, name: bytes, member: tar.Member) -> None:
        if not 0 < len(member.link) <= _LONGEST_LINK:
            raise self._refused(f"{bounds.show(member.path)} links to nothing or too far")
        try:
            os.symlink(member.link, name, dir_fd=parent)
        except FileExistsError:
            self._remove(parent, name)
            os.symlink(member.link, name, dir_fd=parent)
        os.chown(name, *attributes.owner(member, self._what), dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _write(self, reader: tar.Reader, member: tar.Member, parent: int, name: bytes) -> None:
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        except FileExistsError:
            self._remove(parent, name)
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            at = 0
            for offset, piece in reader.content(member):
                if offset != at:
                    os.lseek(fd, offset, os.SEEK_SET)
                at = offset + len(piece)
                self._blocks += -(-len(piece) // _BLOCK_BYTES)
                self._meter.content(len(piece))
                while piece:
                    piece = piece[os.write(fd, piece) :]
            if at < member.size:
                os.ftruncate(fd, member.size)
            attributes.describe(fd, member, self._meter)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _link(self, parent: int, name: bytes, path: bytes, member: tar.Member) -> None:
        """Link to another file of this layer. What the member says about mode and owner is the other file's business."""
        there = [part for part in member.link.split(b"/") if part not in (b"", b".")]
        if not there or b".." in there:
            raise self._refused(f"{bounds.show(member.path)} is a hard link that leads upwards or nowhere")
        try:
            source = self._open_directory(b"/".join(there[:-1]))
        except (FileNotFoundError, NotADirectoryError) as e:
            raise self._lost(member) from e
        try:
            wanted = os.stat(there[-1], dir_fd=source, follow_symlinks=False)
            if stat.S_ISCHR(wanted.st_mode):
                raise self._lost(member)  # it is a whiteout
            if _is_same(wanted, name, parent):
                return
            self._remove(parent, name)
            os.link(there[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as e:
            if b"/".join(there) not in self._passed_over:
                raise self._lost(member) from e
            self._meter.name(path)
            self._passed_over.add(path)
        finally:
            os.close(source)

    def _lost(self, member: tar.Member) -> UserError:
        return self._refused(f"{bounds.show(member.path)} is a hard link to {bounds.show(member.link)}, which is not in this layer")

    def _whiteout(self, parent_path: bytes, marker: bytes) -> None:
        """Hide what lower layers have: a character device 0:0 for a name, an xattr for all of a directory."""
        name = marker.removeprefix(_WHITEOUT)
        if marker == _OPAQUE_MARKER:
            self._make_opaque(self._open_parent(parent_path), b".", parent_path)
            return
        if name.startswith(_WHITEOUT):
            return  # AUFS kept notes of its own under such names; docker leaves them out as well
        if name in (b"", b".", b".."):
            raise self._refused(f"{bounds.show(marker)} is a whiteout of nothing that could exist")
        path = parent_path + b"/" + name if parent_path else name
        parent = self._open_parent(parent_path)
        self._meter.name(path)
        self._hidden.add(path)
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            below.make_whiteout(parent, name)
            self._whiteouts[path] = None
            return
        if stat.S_ISDIR(mode):  # this layer has made it new
            self._implicit.pop(path, None)
            self._make_opaque(parent, name, path)

    def _make_opaque(self, parent: int, name: bytes, path: bytes) -> None:
        below.make_opaque(parent, name)
        self._meter.name(path)
        self._opaque.add(path)

    def _drop_idle_whiteouts(self) -> None:
        """Remove whiteouts from where nothing shines through: in a directory that it need not merge, overlayfs lists them as entries."""
        for path in self._whiteouts if self._opaque else ():
            if not self._is_beneath_opaque(path):
                continue
            parent_path, _, name = path.rpartition(b"/")
            try:
                parent = self._open_directory(parent_path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later member replaced the directory, and stays
            try:
                if stat.S_ISCHR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=parent)
            except FileNotFoundError:
                pass  # a later member replaced the directory by another one
            finally:
                os.close(parent)

    def _is_beneath_opaque(self, path: bytes) -> bool:
        if not self._opaque:
            return False  # a path is as long as a layer likes
        parents = path.split(b"/")[:-1]
        return any(b"/".join(parents[:depth]) in self._opaque for depth in range(len(parents) + 1))

    def _open_parent(self, path: bytes) -> int:
        """Return the directory of a path, made with its parents where no member described it. Ours until the next call."""
        if self._parent and self._parent[0] == path:
            return self._parent[1]
        self._forget_parent()
        try:
            fd = self._open_directory(path)
        except (FileNotFoundError, NotADirectoryError):
            # where a file or whiteout of this layer stands in the way, the later member wins
            self._make_parents(path)
            fd = self._open_directory(path)
        self._parent = (path, fd)
        return fd

    def _open_directory(self, path: bytes) -> int:
        return syscalls.openat2(self.root, path or b".", os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE)

    def _make_parents(self, path: bytes) -> None:
        parts = path.split(b"/")
        # to resolve a path costs as much as it is long: not once for each directory on the way, of which links make 10,000 and more
        there = bisect.bisect_left(range(1, len(parts) + 1), True, key=lambda depth: not self._leads_to_directory(parts[:depth]))
        parent = self._open_directory(b"/".join(parts[:there]))
        try:
            for depth in range(there + 1, len(parts) + 1):
                self._make_implicit(parent, parts[depth - 1], b"/".join(parts[:depth]))
                made = os.open(parts[depth - 1], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                os.close(parent)
                parent = made
        finally:
            os.close(parent)

    def _leads_to_directory(self, parts: list[bytes]) -> bool:
        try:
            os.close(self._open_directory(b"/".join(parts)))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _make_implicit(self, parent: int, name: bytes, path: bytes) -> None:
        self._meter.entry()
        self._blocks += 1
        self._remove(parent, name)
        os.mkdir(name, 0o755, dir_fd=parent)
        if path in self._hidden:
            self._implicit.pop(path, None)
            self._make_opaque(parent, name, path)
        else:
            self._meter.name(path)
            self._implicit[path] = None

    def _forget_parent(self) -> None:
        if self._parent:
            os.close(self._parent[1])
            self._parent = None

    def _remove(self, parent: int, name: bytes) -> None:
        """Make room for a member: what this layer has put there before goes."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            os.fchdir(parent)  # this process does nothing else with its directory
            files.remove_tree(os.fsdecode(name))
        if self._parent:
            self._parent = (b"/", self._parent[1])  # it may have been reached through a link that is gone now; no path is "/"

    def _set_times(self) -> None:
        for path, mtime_ns in self._times.items():
            try:
                fd = syscalls.openat2(self.root, path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_RESOLVE)
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
        return bounds.refused(self._what, words)


def _is_same(info: os.stat_result, name: bytes, directory: int) -> bool:
    try:
        return os.path.samestat(info, os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return False

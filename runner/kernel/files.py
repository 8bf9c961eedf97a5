"""Files: whole or not at all, and trees that are measured and removed without following anything."""

from __future__ import annotations

import errno
import os
import stat

from runner.kernel import plain_json, syscalls
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def fsync_directory(path: str) -> None:
    """Make renames in a directory survive power loss (fsync(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: str, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by a file with `data` and exactly `mode`: readers see the old or the new one, never a part.

    `durable` also survives power loss; without it the file may be lost or old after one, never torn.
    """
    directory, name = os.path.split(path)
    directory = directory or "."
    temporary = f"{directory}/.{name}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            os.fchmod(fd, mode)  # whatever the umask
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException as e:
        os.unlink(temporary)
        if isinstance(e, OSError):
            e.filename = path  # for people: write(2) names none
        raise
    if durable:
        fsync_directory(directory)


def write_json(path: str, value: Any, *, durable: bool = True) -> None:
    """Write `value` as JSON, atomically, for the account only."""
    write_atomic(path, plain_json.dumps(value).encode() + b"\n", durable=durable)


def read_json(path: str, *, limit_bytes: int = 64 * 1024**2) -> Any:
    """Return the decoded JSON of a regular file of at most `limit_bytes`; OSError or ValueError otherwise."""
    return plain_json.loads(read(path, limit_bytes=limit_bytes))


def read(path: str, *, limit_bytes: int = 64 * 1024**2) -> bytes:
    """Return the content of a regular file; OSError EFBIG when it is longer than `limit_bytes`, EINVAL when it is something else."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO must not hold us up
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(fd)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


def make_directory(path: str, *, mode: int = 0o700) -> None:
    """Make one directory with exactly `mode`, whatever the umask; one that exists stays as it is."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    os.chmod(path, mode)


def remove_tree(path: str) -> None:
    """Remove a file or a tree of any depth, following no link and entering no mount point; what is already gone is fine.

    Directories that lack the owner's permissions get them first. Tries everything, then raises the first error. Idempotent.
    """
    try:
        os.unlink(path)
        return
    except (FileNotFoundError, NotADirectoryError):
        return  # also when a parent is no directory: nothing has this name
    except IsADirectoryError:
        pass
    except PermissionError:
        if not os.path.isdir(path) or os.path.islink(path):
            raise
    walk = Walk(path)
    errors: list[OSError] = []
    try:
        while True:
            if walk.subdirectories:
                name = walk.subdirectories.pop()
                try:
                    walk.enter(name, open_up=True)
                    _remove_files(walk, errors)
                except FileNotFoundError:
                    continue
                except OSError as e:
                    errors.append(_at(e, walk.path_of(name)))
            elif walk.is_at_start():
                break
            else:
                name = walk.leave()
                try:
                    os.rmdir(name, dir_fd=walk.here)
                except FileNotFoundError:
                    pass
                except OSError as e:
                    errors.append(_at(e, walk.path_of(name)))
    finally:
        walk.close()
    if errors:
        raise errors[0]


def _remove_files(walk: Walk, errors: list[OSError]) -> None:
    """Remove what is not a directory from where the walk is, and note the directories."""
    for name in os.listdir(walk.here):
        try:
            os.unlink(name, dir_fd=walk.here)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            walk.subdirectories.append(name)
        except OSError as e:
            errors.append(_at(e, walk.path_of(name)))


def disk_usage(path: str) -> int:
    """Return the bytes allocated below `path`, mount points and unreadable directories excepted; a file of several names counts once.

    What vanishes meanwhile counts nothing.
    """
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(info.st_mode):
        return info.st_blocks * 512
    linked: set[tuple[int, int]] = set()
    total = 0
    walk = Walk(path)
    try:
        while walk.subdirectories or not walk.is_at_start():
            if not walk.subdirectories:
                walk.leave()
                continue
            try:
                walk.enter(walk.subdirectories.pop(), open_up=False)
                total += os.fstat(walk.here).st_blocks * 512 + _measure_files(walk, linked)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EACCES, errno.EXDEV, errno.ELOOP, errno.ENOTDIR):
                    raise
    finally:
        walk.close()
    return total


def _measure_files(walk: Walk, linked: set[tuple[int, int]]) -> int:
    """Return the bytes of the files where the walk is, and note the directories; `linked` remembers files of several names."""
    total = 0
    for name in os.listdir(walk.here):
        try:
            info = os.stat(name, dir_fd=walk.here, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(info.st_mode):
            walk.subdirectories.append(name)
            continue
        if info.st_nlink > 1:
            if (info.st_dev, info.st_ino) in linked:
                continue
            linked.add((info.st_dev, info.st_ino))
        total += info.st_blocks * 512
    return total


class _Level(NamedTuple):
    """One directory of a walk: its name in the one above, which inode it is, and the subdirectories that wait there."""

    name: str
    identity: tuple[int, int]
    subdirectories: list[str]


class Walk:
    """A way down and up a tree of any depth that holds one descriptor and resolves no path, so nobody can redirect it."""

    def __init__(self, path: str) -> None:
        parent, name = os.path.split(path.rstrip("/"))
        self.here = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._levels = [_Level(parent, _identity(self.here), [name])]

    @property
    def subdirectories(self) -> list[str]:
        """The directories right here that were noted and not entered yet; at the start, the tree itself."""
        return self._levels[-1].subdirectories

    def is_at_start(self) -> bool:
        """Tell whether the walk is above the tree."""
        return len(self._levels) == 1

    def path_of(self, entry: str) -> str:
        """Return the path of an entry of the directory where the walk is, for messages."""
        return "/".join([*(level.name for level in self._levels), entry])

    def enter(self, name: str, *, open_up: bool) -> None:
        """Go down into a directory, with `open_up` after giving it the owner's permissions. OSError: EXDEV is a mount point."""
        down = self._open(name, open_up=open_up)
        try:
            if open_up and os.fstat(down).st_mode & 0o700 != 0o700:
                os.fchmod(down, 0o700)
            os.stat("..", dir_fd=down)  # what cannot be left again must not be entered
        except BaseException:
            os.close(down)
            raise
        os.close(self.here)
        self.here = down
        self._levels.append(_Level(name, _identity(down), []))

    def _open(self, name: str, *, open_up: bool) -> int:
        resolve = syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS
        try:
            return syscalls.openat2(self.here, name, os.O_RDONLY | os.O_DIRECTORY, resolve=resolve)
        except PermissionError:
            if not open_up:
                raise
        # chmod(2) on a name could be led astray by a link. Only a process without privilege gets here, and that one has a /proc of its own
        handle = syscalls.openat2(self.here, name, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
        return syscalls.openat2(self.here, name, os.O_RDONLY | os.O_DIRECTORY, resolve=resolve)

    def leave(self) -> str:
        """Go back up and return the name of the directory that was left. OSError ESTALE if somebody has moved it meanwhile."""
        up = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.here)
        os.close(self.here)
        self.here = up
        left = self._levels.pop()
        if _identity(up) != self._levels[-1].identity:
            raise OSError(errno.ESTALE, "directory was moved away", self.path_of(left.name))
        return left.name

    def close(self) -> None:
        """Let go of the tree."""
        os.close(self.here)


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _at(error: OSError, path: str) -> OSError:
    return OSError(error.errno, "is a mount point" if error.errno == errno.EXDEV else os.strerror(error.errno or 0), path)

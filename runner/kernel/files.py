"""Files: whole or not at all, and trees that vanish without following anything."""

import errno
import json
import os
import shutil
from typing import Any


def fsync_directory(path: str) -> None:
    """Make renames in a directory survive power loss (fsync(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: str, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by a file with `data`: readers see the old or the new one, never a part.

    `durable` also survives power loss; without it the file may be lost or old after one, never torn.
    """
    directory, name = os.path.split(path)
    temporary = f"{directory}/.{name}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if durable:
        fsync_directory(directory)


def write_json(path: str, value: Any, *, durable: bool = True) -> None:
    """Write `value` as JSON, atomically, for the account only."""
    write_atomic(path, json.dumps(value, separators=(",", ":")).encode() + b"\n", durable=durable)


def read_json(path: str, *, limit_bytes: int = 64 * 1024**2) -> Any:
    """Return the decoded JSON of a regular file of at most `limit_bytes`; OSError or ValueError otherwise."""
    return json.loads(read(path, limit_bytes=limit_bytes))


def read(path: str, *, limit_bytes: int = 64 * 1024**2) -> bytes:
    """Return the content of a file; OSError EFBIG when it is longer than `limit_bytes`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        data = file.read(limit_bytes + 1)
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
    """Remove a file or a tree, following no link; what is already gone is fine.

    Directories without write permission are opened up first. Raises the first error after trying everything.
    """
    try:
        os.unlink(path)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass
    errors: list[OSError] = []

    def again(function: Any, name: str, info: Any) -> None:
        error = info[1]
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, PermissionError) and function is not os.rmdir:
            try:
                parent = name if os.path.isdir(name) and not os.path.islink(name) else os.path.dirname(name)
                os.chmod(parent, 0o700)
                remove_tree(name)
                return
            except OSError as e:
                error = e
        errors.append(error)

    shutil.rmtree(path, onerror=again)
    if errors and os.path.lexists(path):
        raise errors[0]


def disk_usage(path: str) -> int:
    """Return the bytes allocated below `path` on its own file system; what vanishes meanwhile counts nothing."""
    total = 0
    try:
        info = os.lstat(path)
        total = info.st_blocks * 512
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += disk_usage(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    except NotADirectoryError:
        return total
    except FileNotFoundError:
        return total
    return total

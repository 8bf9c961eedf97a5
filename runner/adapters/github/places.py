"""Paths of the runner that a job can write to: nothing below them is followed where it leads.

`_work` is shared with every container of the job, so any directory in it may have become a link to elsewhere on the host. The way there,
down to `_work` itself, is the runner's.
"""

from __future__ import annotations

import errno
import os
import stat

from runner.errors import InfraError, UserError
from runner.kernel import plain_json, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_RESPONSES = "_temp/_runner_hook_responses"
_STRICTLY = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS


def work_directory(response_file: str, environ: Mapping[str, str]) -> str:
    """Return the runner's `_work`, from where it wants its answers, or from $RUNNER_TEMP. InfraError if neither says so."""
    directory = os.path.dirname(os.path.normpath(response_file)) if response_file.startswith("/") else ""
    if directory.endswith(f"/{_RESPONSES}"):
        return directory.removesuffix(f"/{_RESPONSES}")
    temporary = environ.get("RUNNER_TEMP", "")
    if temporary.startswith("/"):
        return os.path.dirname(os.path.normpath(temporary))
    raise InfraError("neither the response file nor RUNNER_TEMP says where the runner works", "is this called by an actions runner?")


def within(path: str, directory: str) -> str:
    """Return a path relative to a directory that holds it or is it ("."), "" if it lies elsewhere. Touches no file."""
    normal = os.path.normpath(path)
    if normal == directory:
        return "."
    return normal.removeprefix(f"{directory}/") if normal.startswith(f"{directory}/") else ""


def beneath(work: str, path: str, *, make: bool = False) -> str:
    """Return the real path of a directory or file in `_work`, made as a directory if it is missing and `make` says so.

    UserError if any part of it is a link, or if it is missing.
    """
    relative = within(path, work)
    if not relative:
        raise InfraError(f"{path} is not below {work}")
    root = os.open(os.path.realpath(work), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_open(root, relative, path, make=make))
    finally:
        os.close(root)
    return os.path.normpath(f"{os.path.realpath(work)}/{relative}")


def _open(root: int, relative: str, path: str, *, make: bool) -> int:
    try:
        return syscalls.openat2(root, relative, os.O_PATH, resolve=_STRICTLY)
    except FileNotFoundError as e:
        if not make:
            raise UserError(f"{path} is not there") from e
    except OSError as e:
        raise _refused(path, e) from e
    parent, _, name = relative.rpartition("/")
    above = _open(root, parent or ".", os.path.dirname(path), make=True)
    try:
        os.mkdir(name, 0o755, dir_fd=above)
    except FileExistsError:
        pass
    except OSError as e:
        raise _refused(path, e) from e
    finally:
        os.close(above)
    return _open(root, relative, path, make=False)


def _refused(path: str, error: OSError) -> UserError:
    why = "it, or a directory above it, is a link" if error.errno in (errno.ELOOP, errno.EXDEV) else (error.strerror or str(error)).lower()
    return UserError(f"{path} cannot be used: {why}", "a job may have put it there; what is below _work is never followed elsewhere")


def respond(response_file: str, value: dict[str, Any]) -> None:
    """Write the answer that the runner reads after us, over whatever is there. The last thing that a command does.

    A job can put things where it will be written: it is written beside and renamed, in a directory that is none of its links. InfraError.
    """
    if not response_file.startswith("/"):
        return
    directory, name = os.path.split(os.path.normpath(response_file))
    try:
        work = directory.removesuffix(f"/{_RESPONSES}")
        root = os.open(os.path.realpath(work), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            relative = within(directory, work)
            parent = syscalls.openat2(root, relative, os.O_RDONLY | os.O_DIRECTORY, resolve=_STRICTLY)
        finally:
            os.close(root)
        try:
            _replace(parent, name, plain_json.dumps(value).encode())
        finally:
            os.close(parent)
    except OSError as e:
        raise InfraError(f"response file {response_file} cannot be written: {e.strerror}", "has the job replaced its directory?") from e


def _replace(parent: int, name: str, data: bytes) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except FileNotFoundError:
        pass
    temporary = f".{name}.{os.urandom(8).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        os.unlink(temporary, dir_fd=parent)
        raise

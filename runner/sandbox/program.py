"""Finding a container's program before crun does, whose own complaint would go to the container's stderr, before ours and beside it.

Only what is sure to fail is refused here: a program that is nowhere, that nobody may execute, or whose interpreter is nowhere. Everything
else is left to crun, which also knows what the kernel and the container's user have to say.
"""

from __future__ import annotations

import errno
import os
import stat

from runner.kernel import syscalls
from runner.sandbox.crun import StartFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MOST_LINKS = 40  # as the kernel: path_resolution(7)
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO there must not hold us up
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_WITHIN = syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_IN_ROOT
_STRICTLY = syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH
_PT_INTERP = 3  # elf(5)
_MACHINES = {"x86_64": 62, "aarch64": 183, "ppc64le": 21, "riscv64": 243}  # elf.h: EM_*
_ELF_64 = b"\x7fELF\x02\x01"  # little-endian
_TEXT = bytes((*b"\t\n\r", *range(0x20, 0x7F)))


class _UnsureError(Exception):
    """What a path leads to is not known before the container runs."""


def check(spec: dict[str, Any], argv: tuple[str, ...], *, filesystems: str = "/proc/filesystems") -> None:
    """Raise StartFailure if the program `argv[0]` surely cannot be started by a runtime spec.

    Its root is mounted, its volumes are not yet; nobody but crun sees the two together.
    """
    if not argv[0]:
        raise StartFailure("the command is empty", "name a program", 127)
    view, problem = _View(spec, filesystems), None
    try:
        paths = _candidates(argv[0], spec["process"])
        for find in (view.open_quickly, view.open):  # the second is asked only about what the first finds wrong
            problem = _problem(argv[0], paths, view, find)
            if not problem:
                return
    except (_UnsureError, OSError):
        return
    finally:
        view.close()
    if problem:
        raise problem


def check_directory(spec: dict[str, Any], path: str, *, filesystems: str = "/proc/filesystems") -> None:
    """Raise StartFailure if a working directory is surely not in the container: crun would make it, where docker exec fails."""
    view = _View(spec, filesystems)
    try:
        for find in (view.open_quickly, view.open):
            try:
                fd = find(path)
            except OSError as e:
                if e.errno not in _NOWHERE:
                    return  # perhaps the container's user may enter it
                continue
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            os.close(fd)
            if is_directory:
                return
    except (_UnsureError, OSError):
        return
    finally:
        view.close()
    raise StartFailure(f"working directory {path} is not in the container", "an earlier step has to make it", 127)


def _candidates(program: str, process: dict[str, Any]) -> list[str]:
    """Return the absolute paths that execvp(3) would try."""
    cwd = process["cwd"]
    if "/" in program:
        return [os.path.join(cwd, program)]
    search = next((entry[5:] for entry in reversed(process["env"]) if entry.startswith("PATH=")), None)
    if search is None:
        raise _UnsureError
    return [os.path.join(cwd, directory, program) for directory in search.split(":")]


def _problem(program: str, paths: list[str], view: _View, find: Callable[[str], int]) -> StartFailure | None:
    """Return why the first of the paths that is a program cannot be started. OSError and _UnsureError when that cannot be told."""
    problem = StartFailure(f"{program}: program not found in the container", "check the name, or choose an image that has it", 127)
    for path in paths:
        try:
            fd = find(path)
        except OSError as e:
            if e.errno in _NOWHERE:
                continue
            raise  # perhaps the container's user may read it
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode) and mode & 0o111:
                return _misfit(program, fd, view)
        finally:
            os.close(fd)
        if stat.S_ISREG(mode):
            problem = StartFailure(f"{program}: program cannot be executed", "is it executable, and for this user?", 126)
        else:
            problem = StartFailure(f"{program}: program cannot be executed: it is not a file", "name a file that is executable", 126)
    return problem


def _misfit(program: str, fd: int, view: _View) -> StartFailure | None:
    """Return why an executable file is no program; None too for a format that others may know (binfmt_misc)."""
    head = os.pread(fd, 4096, 0)
    if head[:2] != b"#!" and not head.translate(None, _TEXT):
        return StartFailure(f"{program}: program cannot be executed: wrong format", "begin a script with #!/bin/sh", 126)
    if _is_foreign(head) and not view.knows_other_formats():
        hint = "is the image for another architecture?"
        return StartFailure(f"{program}: program cannot be executed: wrong format", hint, 126)
    interpreter = _interpreter(head, fd)
    if interpreter.startswith("/") and _is_nowhere(view, interpreter):
        words = f"{program}: its interpreter {interpreter[:100]!r} is not in the container"
        return StartFailure(words, "choose an image that has it", 127)
    return None


def _is_nowhere(view: _View, path: str) -> bool:
    try:
        os.close(view.open(path))
    except OSError as e:
        return e.errno in _NOWHERE
    return False


def _is_foreign(head: bytes) -> bool:
    """Tell whether a program is one for another kind of machine."""
    own = _MACHINES.get(os.uname().machine)
    return own is not None and len(head) >= 20 and head.startswith(_ELF_64) and int.from_bytes(head[18:20], "little") != own


def _interpreter(head: bytes, fd: int) -> str:
    """Return the program that the kernel starts for a script or a dynamically linked program; "" for none, and what is not understood."""
    if head[:2] == b"#!":
        words = head[2:].partition(b"\n")[0].replace(b"\t", b" ").split(b" ")  # "\r" belongs to the name, as for the kernel
        return os.fsdecode(next(filter(None, words), b""))
    if not head.startswith(_ELF_64):
        return ""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(head[offset : offset + size], "little")

    table, size, count = number(32, 8), number(54, 2), number(56, 2)
    for entry in range(table, table + size * count, max(size, 1)):
        if number(entry, 4) == _PT_INTERP:
            return os.fsdecode(os.pread(fd, min(number(entry + 32, 8), 4096), number(entry + 8, 8)).rstrip(b"\0"))
    return ""


class _View:
    """The file tree that a container will see: its root, and over it what its spec mounts."""

    def __init__(self, spec: dict[str, Any], filesystems: str) -> None:
        self._filesystems = filesystems
        self._mounts = {"/": spec["root"]["path"]}  # "" for what the kernel fills
        self._spec, self._real, self._open_bases = spec, False, dict[str, int]()
        for mount in spec["mounts"]:
            self._mounts[mount["destination"]] = mount["source"] if "rbind" in mount["options"] else ""

    def close(self) -> None:
        """Close what is open."""
        for fd in self._open_bases.values():
            os.close(fd)

    def knows_other_formats(self) -> bool:
        """Tell whether the kernel may start programs by a handler, such as qemu's: which ones there are is not seen from here."""
        with open(self._filesystems, encoding="ascii") as file:
            return "binfmt_misc" in file.read()

    def open_quickly(self, path: str) -> int:
        """Open a file for reading as if no link led from one mount to another: what is found is there, what is not may be there still."""
        try:
            return self._open(path, _READ, _WITHIN)
        except _UnsureError as e:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from e

    def open(self, path: str) -> int:
        """Open a file for reading; OSError, _UnsureError for what is the kernel's."""
        if not self._real:
            self._real, written = True, self._mounts
            self._mounts = {"/": written.pop("/")}
            for target, source in written.items():
                try:
                    place = self._follow(target)  # an image may have links where volumes go
                except (_UnsureError, OSError):
                    place = target  # below /dev, or made by crun
                self._mounts[place] = source
        return self._open(self._follow(path), _READ, _STRICTLY)

    def _follow(self, path: str) -> str:
        """Return the path, free of links, that a path leads to; OSError when that is nowhere."""
        done: list[str] = []
        rest = _parts(path)
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                del done[-1:]
                continue
            fd = self._open(f"/{'/'.join([*done, part])}", os.O_PATH | os.O_NOFOLLOW, _STRICTLY)
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    done.append(part)
                    continue
                target = os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            done = [] if target.startswith("/") else done
            rest += _parts(target)
        return f"/{'/'.join(done)}"

    def _open(self, path: str, flags: int, resolve: int) -> int:
        """Open a path in the mount where it lies by its name."""
        target = path
        while target not in self._mounts:
            target = target.rpartition("/")[0] or "/"
        source = self._mounts[target]
        if not source:
            raise _UnsureError
        if source not in self._open_bases:
            self._open_bases[source] = os.open(source, os.O_PATH | os.O_CLOEXEC)
        inner = path[len(target) :].lstrip("/")
        if not inner:  # a file, perhaps, which openat2(2) cannot begin at
            return os.open(source, flags | os.O_CLOEXEC)
        return syscalls.openat2(self._open_bases[source], inner, flags, resolve=resolve)


def _parts(path: str) -> list[str]:
    """Return the names in a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]

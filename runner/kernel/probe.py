"""Probes: each does on this machine, in small, what a job will do, raises OSError where that fails, and leaves nothing behind."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from runner.kernel import files, process, syscalls, userns
from runner.model import IdMap

_TIMEOUT_S = 10.0
_INNER = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
)  # fmt: skip


def kernel_version(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel release ("6.1.0-13-amd64"); (0, 0) for one without."""
    numbers = []
    for part in release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not (digits.isascii() and digits.isdigit()):
            return 0, 0
        numbers.append(int(digits))
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def sysctl(name: str, *, root: str = "/proc/sys") -> str:
    """Return the value of a setting such as "user.max_user_namespaces", "" where the kernel has none of this name."""
    try:
        return files.read(f"{root}/{name.replace('.', '/')}", limit_bytes=4096).decode(errors="replace").strip()
    except (FileNotFoundError, PermissionError):
        return ""


def status(field: str, *, path: str = "/proc/self/status") -> str:
    """Return a field of this process's status (proc(5)), such as "Seccomp"; "" where the kernel has none of this name."""
    for line in files.read(path, limit_bytes=64 * 1024).decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return ""


def find(program: str, *, path: str = process.TRUSTED_PATH) -> str:
    """Return the first executable file of this name on a search path, or a program given absolutely; "" if there is none."""
    for candidate in [program] if program.startswith("/") else [f"{directory}/{program}" for directory in path.split(":") if directory]:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return ""


def first_number(program: str, *options: str) -> str:
    """Run a program and return its version, the first word with a dot that begins with a digit; "" without one. OSError if it fails."""
    done = process.run([program, *options], timeout_s=_TIMEOUT_S)
    for word in (done.stdout + b"\n" + done.stderr).decode(errors="replace").replace("-", " ").split():
        number = word.lstrip("v").rstrip(",;")
        if number[:1].isdigit() and "." in number:
            return number
    return ""


def is_privileged(program: str) -> bool:
    """Tell whether a program gets privileges when it starts: setuid root, or file capabilities, on a file system that heeds them."""
    info = os.stat(program)
    if os.statvfs(program).f_flag & os.ST_NOSUID:
        return False
    if info.st_mode & stat.S_ISUID and info.st_uid == 0:
        return True
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError as e:
        if e.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def make_user_namespace() -> None:
    """Make a user namespace with only our own id, then every other kind of namespace in it, and change a mount there."""

    def inside() -> None:
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # who was root before could not write to its own /proc otherwise
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        syscalls.unshare(_INNER)
        # Ubuntu's AppArmor lets the namespace be made and then takes its privileges away
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)

    process.fork_call(inside)


def map_ids(id_map: IdMap) -> None:
    """Enter a user namespace with these ids and take the last of them."""

    def inside() -> None:
        uid, gid = id_map.uids[-1].inside + id_map.uids[-1].count - 1, id_map.gids[-1].inside + id_map.gids[-1].count - 1
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    userns.call(id_map, inside)


def mount_overlay(id_map: IdMap, directory: str) -> None:
    """Mount an overlay in a new directory below `directory`, as a job does; write through it, and remove a file of its lower layer."""

    def inside() -> None:
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{directory}/overlay/{name}")
        _write(f"{directory}/overlay/lower/below")
        os.chdir(f"{directory}/overlay")
        syscalls.mount("overlay", "merged", "overlay", syscalls.MS_NODEV, "lowerdir=lower,upperdir=upper,workdir=work,userxattr,volatile")
        _write("merged/above")
        os.unlink("merged/below")
        if not _is_whiteout("upper/below"):
            raise OSError(errno.EIO, "overlay: a removed file left no whiteout")

    os.mkdir(f"{directory}/overlay")
    userns.call(id_map, inside, flags=syscalls.CLONE_NEWNS)


def make_whiteout(id_map: IdMap, directory: str) -> None:
    """Make the character device 0:0 that marks a removed file in a layer; unprivileged since Linux 5.8."""

    def inside() -> None:
        os.mknod(f"{directory}/whiteout", stat.S_IFCHR, 0)
        if not _is_whiteout(f"{directory}/whiteout"):
            raise OSError(errno.EIO, "mknod: no whiteout was made")

    userns.call(id_map, inside)


def mount_proc(id_map: IdMap, directory: str) -> None:
    """Mount a /proc of a new PID namespace; the kernel refuses that where the one that we see has parts covered."""

    def mount() -> None:
        syscalls.mount("proc", f"{directory}/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        if os.readlink(f"{directory}/proc/self") != "1":
            raise OSError(errno.EIO, "mount: /proc shows other processes")

    os.mkdir(f"{directory}/proc")
    userns.call(id_map, lambda: process.fork_call(mount), flags=syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)


def run_in_network(id_map: IdMap, program: str, *options: str, script: str) -> None:
    """Feed `script` to a program in a new network namespace. process.Failed has the program's own words."""
    userns.call(
        id_map,
        lambda: process.run([program, *options], input=script.encode(), timeout_s=_TIMEOUT_S).returncode,
        flags=syscalls.CLONE_NEWNET,
    )


def open_tun(path: str = "/dev/net/tun") -> None:
    """Open the device through which slirp4netns speaks to a network namespace."""
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))


def set_user_attribute(directory: str) -> None:
    """Set an extended attribute of the kind in which an unprivileged overlay keeps its notes."""
    _write(f"{directory}/attribute")
    os.setxattr(f"{directory}/attribute", "user.overlay.dockless", b"y")
    if os.getxattr(f"{directory}/attribute", "user.overlay.dockless") != b"y":
        raise OSError(errno.ENOTSUP, "setxattr: the attribute was not kept")


def free_bytes(directory: str) -> int:
    """Return how much an ordinary account may still write to the file system of a directory."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def filesystem(directory: str, *, mounts: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system that a directory is on ("ext4"), "" if no mount that we see holds it."""
    real = os.path.realpath(directory)
    best, kind = "", ""
    for line in files.read(mounts).decode(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        point = _unescape(fields.split()[4])
        # a later mount on the same place covers the earlier one
        if (real == point or real.startswith(f"{point.rstrip('/')}/")) and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind


def existing(path: str) -> str:
    """Return the nearest of a path and its parents that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path.rstrip("/")) or "/"
    return path


@contextmanager
def scratch(directory: str) -> Iterator[str]:
    """Make a private directory in `directory` for probes, and remove it with what they left."""
    path = tempfile.mkdtemp(prefix=".dockless-probe-", dir=directory)
    try:
        yield path
    finally:
        files.remove_tree(path)


def _write(path: str) -> None:
    with open(path, "xb") as file:
        file.write(b"dockless\n")


def _is_whiteout(path: str) -> bool:
    info = os.lstat(path)
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text

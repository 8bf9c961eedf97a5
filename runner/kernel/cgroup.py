"""Control groups, version 2 (cgroups(7), cgroup-v2.rst): finding what was delegated to us, limits, and who was killed.

A group with processes of its own cannot hand controllers to its children, and an unprivileged process can be moved only below a delegated
ancestor. So jobs become siblings of the group that this process is in: the CI agent's unit is delegated, its processes sit in a leaf.
"""

import os
import stat
import time

from runner.record import NamedTuple

CONTROLLERS = ("memory", "cpu", "pids")


class Delegation(NamedTuple):
    """The directory below which groups can be made, "" if there is none, and then the reason why."""

    directory: str
    reason: str


def delegated(*, own: str = "/proc/self/cgroup", mounts: str = "/proc/self/mountinfo") -> Delegation:
    """Find the group below which this process may make groups with the memory, cpu and pids controllers. Never raises."""
    try:
        path, top = _own_path(own), _mount_point(mounts)
    except OSError as e:
        return Delegation("", str(e.strerror))
    if not top or path is None:
        return Delegation("", "there is no cgroup v2 hierarchy on this machine")
    parent = os.path.dirname(path.rstrip("/"))
    base = f"{top}{parent.rstrip('/')}"
    available = _words(f"{base}/cgroup.controllers")
    missing = [name for name in CONTROLLERS if name not in available]
    if missing:
        is_elsewhere = not set(missing) <= set(_words(f"{top}/cgroup.controllers"))
        kind = "the machine uses cgroup v1 or a hybrid" if is_elsewhere else f"{parent or '/'} is not delegated"
        return Delegation("", f"controllers {', '.join(missing)} are not available: {kind}")
    if not (os.access(base, os.W_OK) and os.access(f"{base}/cgroup.procs", os.W_OK)):
        return Delegation("", f"{parent or '/'} is not delegated to this account")
    if _words(f"{base}/cgroup.procs"):
        return Delegation("", f"{parent or '/'} has processes of its own, so it cannot hand controllers on")
    return Delegation(base, "")


def _own_path(own: str) -> str | None:
    with open(own, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("0::"):
                return line[3:].rstrip("\n")
    return None


def _mount_point(mounts: str) -> str:
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            if rest.startswith("cgroup2 "):
                return fields.split()[4].replace("\\040", " ")
    return ""


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except (OSError, ValueError):  # a path with a NUL, bytes that are no text
        return []


def make_inner(directory: str) -> None:
    """Make a group that holds only groups, with the controllers handed on to them; the parent hands them on too. Idempotent."""
    for path in (os.path.dirname(directory), directory):
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            pass
        handed = _words(f"{path}/cgroup.subtree_control")
        lacking = [f"+{name}" for name in CONTROLLERS if name not in handed]
        if lacking:
            _write(f"{path}/cgroup.subtree_control", " ".join(lacking))


def make_leaf(directory: str, *, memory: int, cpus: float, pids: int, as_one: bool = True) -> None:
    """Make a group for processes; limits in bytes, cores and processes, 0 for none.

    A process killed for memory takes the group with it, unless `as_one` is False.
    """
    os.mkdir(directory, 0o755)
    for name, text in limits(memory=memory, cpus=cpus, pids=pids):
        if name == "memory.oom.group" and not as_one:
            continue
        try:
            _write(f"{directory}/{name}", text)
        except FileNotFoundError:
            if name != "memory.swap.max":  # which a kernel without swap accounting lacks
                raise


def limits(*, memory: int, cpus: float, pids: int) -> tuple[tuple[str, str], ...]:
    """Return which file of a group says what, for limits as `make_leaf` takes them."""
    found = []
    if memory:
        found += [("memory.max", str(memory)), ("memory.oom.group", "1"), ("memory.swap.max", "0")]
    if cpus:
        found.append(("cpu.max", f"{max(1000, round(cpus * 100_000))} 100000"))
    if pids:
        found.append(("pids.max", str(pids)))
    return tuple(found)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def remove(directory: str) -> None:
    """Remove a group and its leaves after killing what is in them. Idempotent; OSError EBUSY if a process does not end in a second.

    A leaf that stays does not keep the others; the first error is raised.
    """
    try:
        parent = os.open(os.path.dirname(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(parent, os.path.basename(directory))
    finally:
        os.close(parent)


def remove_at(parent: int, name: str) -> None:
    """As `remove`, from a descriptor of the parent group: for a process that has left the mount namespace where the group has a path."""
    try:
        group = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return
    first: OSError | None = None
    try:
        for leaf in os.listdir(group):
            try:
                if stat.S_ISDIR(os.stat(leaf, dir_fd=group, follow_symlinks=False).st_mode):
                    _kill_and_remove(group, leaf)
            except OSError as e:
                first = first or e
    finally:
        os.close(group)
    if first:
        raise first
    _kill_and_remove(parent, name)


def _kill_and_remove(parent: int, name: str) -> None:
    try:
        fd = os.open(f"{name}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    except OSError:
        pass  # before Linux 5.14; the keeper's end kills them as well
    deadline = time.monotonic() + 1.0
    while True:
        try:
            os.rmdir(name, dir_fd=parent)
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.01)

"""The processes of a job's containers as /proc shows them, for images that have neither ps nor kill."""

from __future__ import annotations

import os

from runner import errors, paths
from runner.job import keeper
from runner.kernel import process, syscalls, userns
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from runner.job.state import JobState

_LIMIT = 256 * 1024  # of one command line or environment


class Process(NamedTuple):
    """One process; its numbers are those that the container sees."""

    pid: int
    parent: int  # 0: none in the container
    uid: int
    comm: str  # its short name
    argv: tuple[str, ...]  # empty for what has none any more
    environ: tuple[str, ...]
    state: str  # proc(5): R, S, Z …
    started: int  # clock ticks since boot
    ticks: int  # of processor time


def look(current: JobState, root_pid: int) -> list[Process]:
    """Return the processes of the container whose first process has this pid in the job's PID namespace, in the order of their pids.

    Raises InfraError when the job is gone.
    """
    found = _inside(current, lambda: [entry[1:] for entry in _look(root_pid)])
    return [Process(*entry)._replace(argv=tuple(entry[4]), environ=tuple(entry[5])) for entry in found]


def kill(current: JobState, root_pid: int, pids: Sequence[int], *, number: int, uid: int) -> dict[int, str]:
    """Signal processes by the pids that the container sees, with the rights of its user `uid`; return what failed, in words of errno."""
    if not pids:
        return {}
    found = _inside(current, lambda: _kill(root_pid, pids, number, uid))
    return {int(pid): str(words) for pid, words in found}


def _inside(current: JobState, function: Callable[[], Any]) -> Any:
    """Run something in the job as root of its containers' user namespace, where their numbers of users mean what they say."""
    if not current.keeper.is_alive():
        raise errors.InfraError("job environment is gone: its keeper has ended", "was the machine out of memory?")

    def join() -> Any:
        fd = os.open(paths.USER_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(fd, syscalls.CLONE_NEWUSER)
        userns.become_root()
        return function()

    return keeper.call(current.keeper, join)


def _kill(root_pid: int, pids: Sequence[int], number: int, uid: int) -> list[tuple[int, str]]:
    known = {int(entry[1]): int(entry[0]) for entry in _look(root_pid)}
    os.setresuid(uid, uid, uid)  # from here on the kernel judges
    failed = []
    for pid in pids:
        try:
            if pid not in known:
                raise ProcessLookupError(3, os.strerror(3))
            os.kill(known[pid], number)
        except OSError as e:
            failed.append((pid, e.strerror or str(e)))
    return failed


def _look(root_pid: int) -> list[list[Any]]:
    """Return, for each process in the container's PID namespace, its pid in the job and then the fields of Process."""
    namespace = os.stat(f"/proc/{root_pid}/ns/pid").st_ino
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}/ns/pid").st_ino == namespace:
                found.append(_describe(int(name)))
        except OSError:  # ended just now
            continue
    numbers = {entry[0]: entry[1] for entry in found}
    for entry in found:
        entry[2] = numbers.get(entry[2], 0)
    return sorted(found, key=lambda entry: int(entry[1]))


def _describe(pid: int) -> list[Any]:
    status = dict(line.split(":\t", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return [
        pid,
        int(status["NSpid"].split()[-1]),
        process.parent(pid),
        int(status["Uid"].split()[0]),
        status["Name"],
        _strings(f"/proc/{pid}/cmdline"),
        _strings(f"/proc/{pid}/environ"),
        stat[0],
        int(stat[19]),
        int(stat[11]) + int(stat[12]),
    ]


def _strings(path: str) -> list[str]:
    try:
        return [word for word in _read(path).split("\0") if word]
    except OSError:  # a zombie has none, and one that is being started is closed for a moment
        return []


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(_LIMIT).decode(errors="replace")

"""Processes: those of a job, and those that are left when everything has ended."""

import os
import time
from collections.abc import Iterable
from pathlib import Path


def with_descendants(pids: Iterable[int]) -> set[int]:
    """Return processes and all that they and their children started, as far as these have not left for another parent."""
    parents = _parents()
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sharing_namespace(pid: int) -> set[int]:
    """Return the processes in the PID namespace of another, itself included; those of namespaces below are not in it."""
    wanted = os.readlink(f"/proc/{pid}/ns/pid")
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/ns/pid") == wanted:
                found.add(int(name))
        except OSError:
            continue  # it has ended, or is none of ours
    return found


def naming(path: str) -> set[int]:
    """Return the processes whose command line has a path in it, or one below it."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if path.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.add(int(name))
        except OSError:
            continue
    return found


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, what it shares with others included."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nRss:")[2].split()[0]) * 1024


def left_over(*, patience_s: float) -> list[str]:
    """Return what was started here and still runs, and goes on to do so for a while.

    The parent of this process is tini, which adopts everything that loses its own parent: nothing can hide from it but in a new container.
    """
    reaper = os.getppid()
    if command(reaper) != "tini":
        return [f"this was not started below tini, but below {command(reaper)}: what is left cannot be told"]
    deadline = time.monotonic() + patience_s
    while (left := with_descendants([reaper]) - {reaper, os.getpid()}) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"{pid} {command(pid)}" for pid in sorted(left)]


def command(pid: int) -> str:
    """Return the name of a process's program, "" once it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parents() -> dict[int, int]:
    parents = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if fields[0] not in "ZX":
            parents[int(name)] = int(fields[1])
    return parents

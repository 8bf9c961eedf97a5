"""Everything of a store, and of the machine because of it, that a job could leave behind: two counts are compared as values."""

import os
from pathlib import Path

from tests.support import faults
from tests.support.engine import Engine, processes_of

_CGROUPS = Path("/sys/fs/cgroup")


def take(engine: Engine, temporary: Path) -> dict[str, list[str]]:
    """Count what is there now; `temporary` is the TMPDIR of all executors."""
    pids = processes_of(engine.state)
    return {
        "processes": sorted(_command(pid) for pid in pids),
        "namespaces": sorted(_foreign_networks(pids)),
        "devices": sorted(os.listdir("/sys/class/net")),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": _cgroups(),
        "jobs": engine.jobs(),
        "leases": sorted(f"{name} {place}" for name, place in faults.leases(engine).items()),
        "half-written": faults.half_written(engine),
        "torn layers": faults.torn_layers(engine),
        "store": sorted(f"{kind}/{name}" for kind, names in faults.entries(engine).items() for name in names),
        "volumes": sorted(str(path) for path in engine.state.glob("volumes/*/*/*")),
        "temporary": sorted(os.listdir(temporary)),
    }


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """Return what is there now and was not, and what was and is not."""
    more = [f"{kind}: left {item}" for kind, items in after.items() for item in sorted(set(items) - set(before[kind]))]
    return more + [f"{kind}: lost {item}" for kind, items in before.items() for item in sorted(set(items) - set(after[kind]))]


def _foreign_networks(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue
    return found - {os.readlink("/proc/self/ns/net")}


def _cgroups() -> list[str]:
    """Return the groups that were made below our own: where jobs have theirs."""
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except StopIteration:
        return []
    parent = _CGROUPS / os.path.dirname(line.removeprefix("0::/"))
    return sorted(str(path) for path in parent.glob("dockless-*")) if parent.is_dir() else []


def _command(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().decode(errors='replace')[:200]!r}"
    except OSError:
        return f"{pid} ended just now"

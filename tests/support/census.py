"""A count of everything that a fault could leave behind: two that are equal before and after it say that nothing was."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support import faults
from tests.support.engine import Engine, processes_of, wait_until

# compiled filters are a cache: crun may not have had the time to leave one, and the next container has another try
_CACHES = ("seccomp",)
# below these a store is as large as its layers and volumes are; what is in them `dockless verify` looks at, or a job's script
_OPAQUE = ("layers/*/*/", "volumes/*/*/*/", "storage/*/*/*/")


class Census(NamedTuple):
    """What there is on the machine of one store, in names that do not change from run to run."""

    jobs: tuple[str, ...]  # records, locks, processes, mounts
    leases: tuple[str, ...]
    files: tuple[str, ...]  # of the store and of the account's home; locks, which are for good, are no files
    half_written: tuple[str, ...]
    torn_layers: tuple[str, ...]
    cgroups: tuple[str, ...]
    network_namespaces: int
    devices: tuple[str, ...]
    damage: str  # what `dockless verify` has to say

    def differences(self, other: "Census") -> list[str]:
        """Say in words how another census differs from this one."""
        found = []
        for name, mine, others in zip(self._fields, self, other, strict=True):
            if isinstance(mine, tuple) and isinstance(others, tuple):
                found += [f"{name}: more {each}" for each in sorted(set(others) - set(mine))]
                found += [f"{name}: less {each}" for each in sorted(set(mine) - set(others))]
            elif mine != others:
                found.append(f"{name}: {mine} became {others}")
        return found


def take(engine: Engine) -> Census:
    """Count, once what is ending has ended."""
    wait_until(lambda: engine.leftovers() == [], 15)
    verified = engine.run("verify", timeout_s=300)
    return Census(
        jobs=tuple(engine.leftovers()),
        leases=tuple(sorted(faults.leases(engine))),
        files=tuple(sorted({*_files(engine.state), *_files(engine.home)})),
        half_written=tuple(faults.half_written(engine)),
        torn_layers=tuple(faults.torn_layers(engine)),
        cgroups=tuple(_cgroups()),
        network_namespaces=len(_network_namespaces(engine)),
        devices=tuple(sorted(os.listdir("/sys/class/net"))),
        damage="" if ": 0 mended, 0 broken" in verified.out else f"{verified.code}: {verified.out}{verified.err}",
    )


def _files(root: Path) -> Iterator[str]:
    opaque = {path for pattern in _OPAQUE for path in root.glob(pattern)}
    for directory, names, others in os.walk(root):
        inside = Path(directory)
        names[:] = [name for name in names if inside / name not in opaque and (inside != root or name not in _CACHES)]
        entries = [*others, *(path.name for path in opaque if path.parent == inside)]
        yield from (str((inside / name).relative_to(root)) for name in entries if not name.endswith(".lock"))


def _cgroups() -> list[str]:
    """Return the groups that jobs of any store have: those of this account, wherever they were delegated to it."""
    found = []
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{directory}/{name}" for name in names if "dockless" in name]
    return sorted(found)


def _network_namespaces(engine: Engine) -> set[str]:
    """Return the network namespaces of a store's processes that are not this one's own."""
    found = set()
    for pid in processes_of(engine.state):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue  # it has ended
    return found - {os.readlink("/proc/self/ns/net")}

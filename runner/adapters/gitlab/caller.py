"""Who calls the verbs: the runner is the nearest process that config_exec and prepare_exec both descend from.

Between the runner and us there may be wrappers (sudo, a shell script), which end with each call; what both calls share outlives them.
"""

import os

from runner.kernel import process


def ancestors() -> tuple[tuple[int, int], ...]:
    """Return our parent, its parent and so on, each as pid and start time, as far as they can be seen."""
    found = []
    pid = os.getppid()
    while pid > 0:
        try:
            found.append((pid, process.start_time(pid)))
            pid = process.parent(pid)
        except ProcessLookupError:  # ended just now, or hidden (hidepid)
            break
    return tuple(found)


def write(chain: tuple[tuple[int, int], ...]) -> str:
    """Write a chain for the environment of a later call."""
    return ",".join(f"{pid}:{started}" for pid, started in chain)


def nearest_common(written: str, chain: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return the first process of `chain` that the written one has as well; (0, 0) if there is none."""
    earlier = written.split(",")
    return next((one for one in chain if write((one,)) in earlier), (0, 0))

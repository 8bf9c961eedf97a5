"""Who started the step: the runner's worker, which lives as long as the job, and its environment from before there was a job.

The worker is the nearest process above us that is no part of the job. Between it and us there may be a shell or sudo.
"""

from __future__ import annotations

import os

from runner.kernel import files, process
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# what the runner gives each step and does not have in its own environment
_OF_JOB = ("GITHUB_RUN_ID", "GITHUB_JOB")
_NAME = "Runner.Worker"


class Worker(NamedTuple):
    """A runner's worker: pid and start time, (0, 0) if it cannot be found; its environment, None if that cannot be read."""

    process: tuple[int, int]
    environ: dict[str, str] | None


def find(environ: Mapping[str, str]) -> Worker:
    """Return the worker of the job that `environ` is a step's environment of."""
    pid = os.getppid()
    while pid > 0:
        try:
            started, parent = process.start_time(pid), process.parent(pid)
        except ProcessLookupError:  # ended just now, or hidden (hidepid)
            break
        theirs = _environ(pid)
        if (theirs is not None and not _is_of_job(theirs, environ)) or _name(pid) == _NAME:
            return Worker((pid, started), theirs)
        pid = parent
    return Worker((0, 0), None)


def _is_of_job(theirs: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    return all(theirs.get(name) == environ.get(name) for name in _OF_JOB)


def _environ(pid: int) -> dict[str, str] | None:
    try:
        raw = files.read(f"/proc/{pid}/environ", limit_bytes=16 * 1024**2)
    except OSError:  # somebody else's, or it has just ended
        return None
    return {name: value for name, has_value, value in (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0")) if has_value}


def _name(pid: int) -> str:
    try:
        return os.fsdecode(files.read(f"/proc/{pid}/comm")).rstrip("\n")
    except OSError:
        return ""

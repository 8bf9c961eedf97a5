"""Which job of ours belongs to which of the runner's: by what the runner itself says in our environment, never by what comes with a state.

A runner has one job at a time, so its work directory names the job; the ids of the run say whether it is still the same one.
"""

from __future__ import annotations

import os
from binascii import crc32

from runner import errors
from runner.job import state
from runner.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner import paths
    from runner.job.state import JobState

_WORKER = "Runner.Worker"
_LAUNCHERS = ("node", "bash", "sh", "dash")


def key(work: str) -> str:
    """Return the key of the job that the runner with this work directory has, now or ever."""
    raw = os.fsencode(os.path.realpath(work))
    return f"github-{crc32(raw):08x}{crc32(raw[::-1]):08x}"


def run(environ: Mapping[str, str]) -> str:
    """Name the run of a job; the tracking id alone is new for every job, where the runner is new enough to have it."""
    return "/".join(environ.get(name, "") for name in ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "RUNNER_TRACKING_ID"))


def build_user(environ: Mapping[str, str], kind: str) -> str:
    """Name the build user: jobs of one repository, of one owner, or of the whole GitHub share one."""
    server = environ.get("GITHUB_SERVER_URL", "").rstrip("/").lower()
    repository = environ.get("GITHUB_REPOSITORY", "").lower()
    known = f"github-{crc32(server.encode()):08x}"
    match kind:
        case "owner":
            return f"{known}-owner-{environ.get('GITHUB_REPOSITORY_OWNER_ID') or _mark(repository.partition('/')[0])}"
        case "runner":
            return known
    return f"{known}-repository-{environ.get('GITHUB_REPOSITORY_ID') or _mark(repository)}"


def _mark(name: str) -> str:
    raw = name.encode()
    return f"{crc32(raw):08x}{crc32(raw[::-1]):08x}"


def facts(work: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the job's record says of whom it belongs to."""
    return {"work": os.path.realpath(work), "run": run(environ)}


def current(store: paths.Store, work: str, environ: Mapping[str, str]) -> JobState | None:
    """Return the job of this run; None if there is none, and for one of an earlier run, which its runner did not end."""
    found = state.load(store, key(work))
    if found is None or found.facts.get("work") != os.path.realpath(work) or found.facts.get("run") != run(environ):
        return None
    return found


def prepared(store: paths.Store, work: str, environ: Mapping[str, str]) -> JobState:
    """Return the job of this run; InfraError if there is none."""
    found = current(store, work, environ)
    if found is None:
        raise errors.InfraError("the job's container is gone, or was never made on this machine", "run the job again")
    return found


def worker() -> tuple[int, int]:
    """Return the process that runs the job by pid and start time: Runner.Worker, else our nearest ancestor that is no launcher.

    It must not be one that ends before the job does: the job would count as an orphan.
    """
    nearest = (0, 0)
    pid = os.getppid()
    try:
        while pid > 0:
            name = _program(pid)
            if name == _WORKER:
                return pid, process.start_time(pid)
            if nearest == (0, 0) and name not in _LAUNCHERS:
                nearest = pid, process.start_time(pid)
            pid = process.parent(pid)
    except (ProcessLookupError, FileNotFoundError):  # ended just now, or hidden (hidepid)
        pass
    return nearest


def _program(pid: int) -> str:
    """Return the name of a process's program; threads and processes can give themselves other names, as node does."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except PermissionError:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()

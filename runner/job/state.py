"""What a job is, on disk: written once when it is prepared, read by every later verb; secrets are never in it.

A job is alive while its keeper runs, or while somebody holds its lock to make or end it.
"""

from __future__ import annotations

import os

from runner import errors, paths
from runner.job.keeper import Keeper
from runner.kernel import files, locks, process
from runner.model import BuildUser
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1


class DiskBounds(NamedTuple):
    """What job.disk_watch and job.log_bound hold a job to, in bytes; 0 is no bound."""

    directory: str  # of the job
    limit: int  # what it may write
    reserve: int  # what has to stay free on its file system
    log: int  # what is kept of the output of each of its containers (job.log_bound)


NO_BOUNDS = DiskBounds("", 0, 0, 0)


class ContainerState(NamedTuple):
    """One container of a job. `endpoint` names its pinned namespaces; `ip` is "" without a network."""

    name: str
    is_service: bool
    endpoint: str
    ip: str
    aliases: tuple[str, ...]
    image: str  # what was asked for
    image_digest: str
    exposed_ports: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    uid: int  # of the container's user, inside
    gid: int
    cgroup: str  # leaf directory, "" where there is none


class JobState(NamedTuple):
    """One job. `facts` belong to the adapter that made it and are opaque here."""

    key: str
    build_user: BuildUser
    slot: int  # which set of the build user's volumes the job uses
    shared_id: int | None
    keeper: Keeper
    containers: dict[str, ContainerState]
    facts: dict[str, Any]
    cgroup: str
    created: float  # seconds since the epoch
    owner: tuple[int, int] = (0, 0)  # as in JobSpec
    layers: tuple[str, ...] = ()  # "map/name" of all that its containers use, which the collector leaves alone
    shared_gid: int | None = None  # as in JobSpec
    disk: DiskBounds = NO_BOUNDS

    def container(self, name: str) -> ContainerState:
        """Return a container's record; Bug if the job has none of that name."""
        try:
            return self.containers[name]
        except KeyError:
            raise errors.Bug(f"job {self.key} has no container {name}") from None


NO_KEEPER = Keeper(0, 0, "")


def save(store: paths.Store, state: JobState) -> None:
    """Write a job's state, atomically. It needs no power-loss safety: no job survives one."""
    value = {
        "format": FORMAT,
        **state._asdict(),
        "build_user": list(state.build_user),
        "keeper": list(state.keeper),
        "disk": list(state.disk),
        "containers": [container._asdict() for container in state.containers.values()],
    }
    files.write_json(store.job_state(state.key), value, durable=False)


def load(store: paths.Store, key: str) -> JobState | None:
    """Return a job's state, None if there is no such job. UserError if another version of dockless wrote it."""
    try:
        value = files.read_json(store.job_state(key))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as e:
        raise _damaged(key, e) from e
    if not isinstance(value, dict):
        raise _damaged(key, "it is not an object")
    if value.get("format") != FORMAT:
        raise errors.UserError(
            f"state of job {key} has format {value.get('format')}, this version knows {FORMAT}", "let running jobs end before an upgrade"
        )
    try:
        return _decode(value)
    except (KeyError, TypeError, ValueError) as e:
        raise _damaged(key, repr(e)) from e


def _damaged(key: str, why: object) -> errors.InfraError:
    return errors.InfraError(f"state of job {key} is damaged: {why}", "end the job, or run `dockless gc`")


def _decode(value: dict[str, Any]) -> JobState:
    containers = {}
    for record in value["containers"]:
        for field in ("aliases", "exposed_ports", "entrypoint", "command"):
            record[field] = tuple(record[field])
        containers[record["name"]] = ContainerState(**record)
    return JobState(
        key=value["key"],
        build_user=BuildUser(*value["build_user"]),
        slot=value["slot"],
        shared_id=value["shared_id"],
        keeper=Keeper(*value["keeper"]),
        containers=containers,
        facts=value["facts"],
        cgroup=value["cgroup"],
        created=value["created"],
        owner=(value["owner"][0], value["owner"][1]),
        layers=tuple(value["layers"]),
        shared_gid=value.get("shared_gid"),
        disk=DiskBounds(*value.get("disk", NO_BOUNDS)),
    )


def keys(store: paths.Store) -> list[str]:
    """Return the keys of all jobs that have a directory, dead or alive, oldest name first. What is no job of ours is passed over."""
    return sorted(entry.name for entry in _entries(store) if entry.is_dir(follow_symlinks=False) and paths.is_job_key(entry.name))


def lock_keys(store: paths.Store) -> list[str]:
    """Return the keys of all jobs that have a lock file, which may have nothing else."""
    names = sorted(entry.name for entry in _entries(store))
    return [key for name in names if (key := name.removesuffix(".lock")) != name and paths.is_job_key(key)]


def _entries(store: paths.Store) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(store.jobs) as found:
            return list(found)
    except FileNotFoundError:
        return []


def every(store: paths.Store, *, prefix: str = "") -> list[tuple[JobState, bool]]:
    """Return all jobs that can be read, each with whether it is alive; others (half-made, damaged) are the reaper's business.

    With a `prefix` only those whose keys begin so.
    """
    found = []
    for key in keys(store):
        if not key.startswith(prefix):
            continue
        try:
            state = load(store, key)
        except errors.RunnerError:
            continue
        if state is not None:
            found.append((state, is_alive(store, state)))
    return found


def is_orphaned(state: JobState) -> bool:
    """Tell whether the process that wanted the job has ended without ending it; only that of this boot may be asked for."""
    return state.owner != (0, 0) and process.has_ended(*state.owner)


def is_alive(store: paths.Store, state: JobState) -> bool:
    """Tell whether a job runs or is being made or ended right now."""
    if state.keeper.pid and state.keeper.is_alive():
        return True
    fd = locks.try_take(store.job_lock(state.key), shared=True)
    if fd is None:
        return True
    os.close(fd)
    return False

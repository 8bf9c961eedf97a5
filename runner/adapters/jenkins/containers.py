"""Docker's containers as jobs: the id that `docker run` printed leads to the job's key, and the job's facts hold the rest."""

from __future__ import annotations

import os

from runner import errors
from runner.job import detached, state
from runner.job.detached import Main
from runner.job.forward import Port
from runner.job.state import JobState
from runner.kernel import locks, signals
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runner.job.surroundings import Surroundings

PREFIX = "docker-"
_FACT = "docker"  # its value has a Record's fields for each container; other jobs' facts have no such key
_SHORT = 12


class Record(NamedTuple):
    """What is known of a container besides its job's state."""

    id: str  # 64 hex digits
    name: str
    part: str  # the name of the container in its job
    image: str  # as it was asked for
    image_id: str
    hostname: str
    created: float
    mounts: tuple[tuple[str, str, bool], ...]  # source on the host, path inside, read only
    labels: tuple[tuple[str, str], ...]
    stop_signal: int
    auto_remove: bool
    main: Main
    ports: tuple[Port, ...]  # of the machine, that lead to the container's


class Container(NamedTuple):
    """One container, and the job that it is."""

    record: Record
    job: JobState

    def is_running(self) -> bool:
        """Tell whether its first process runs."""
        return detached.is_running(self.job, self.record.main)


def new_id() -> str:
    """Return an id for a new container."""
    return os.urandom(32).hex()


def key(container_id: str) -> str:
    """Return the key of the job that a container is."""
    return f"{PREFIX}{container_id[:_SHORT]}"


def part(container_id: str) -> str:
    """Return the name of the container in its job."""
    return f"c{container_id[:_SHORT]}"


def short(container_id: str) -> str:
    """Return an id as people see it."""
    return container_id[:_SHORT]


def every(around: Surroundings) -> list[Container]:
    """Return all containers, oldest first."""
    found = [Container(record, job) for job, _ in state.every(around.store, prefix=PREFIX) for record in _records(job)]
    return sorted(found, key=lambda each: each.record.created)


def find(around: Surroundings, text: str) -> Container | None:
    """Return the container of an id, the beginning of one, or a name; None if there is none. UserError for a beginning of several."""
    if _is_hex(text) and len(text) >= _SHORT:
        job = state.load(around.store, key(text))
        for record in _records(job) if job else ():
            if job and record.id.startswith(text):
                return Container(record, job)
    known = every(around)
    named = [each for each in known if each.record.name == text.removeprefix("/")]
    if named or not _is_hex(text):
        return named[0] if named else None
    begun = [each for each in known if each.record.id.startswith(text)]
    if len(begun) > 1:
        raise errors.UserError(f"there are several containers whose id begins with {text}")
    return begun[0] if begun else None


def get(around: Surroundings, text: str) -> Container:
    """Return a container like `find`; UserError if there is none."""
    found = find(around, text)
    if found is None:
        raise errors.UserError(f"no such container: {text[:80]}")
    return found


def remove(around: Surroundings, container: Container) -> None:
    """End a container and remove all that is left of it, with the last one of a job the job. Idempotent."""
    from runner.job import cleanup  # for those who end jobs: docker exec does not pay for it

    job_key = container.job.key
    if not os.path.isdir(around.store.job(job_key)):
        return
    with locks.hold(around.store.job_lock(job_key), timeout_s=120):
        current = state.load(around.store, job_key)
        if current and [record for record in _records(current) if record.id != container.record.id]:
            _remove_one(around, current, container.record)
            return
    cleanup.cleanup(around.store, job_key, around.account)


def _remove_one(around: Surroundings, current: JobState, record: Record) -> None:
    """End one of several containers of a job, whose lock the caller holds; what it has on the disk goes with the job."""
    detached.stop(current, record.part, record.main, number=signals.SIGKILL, grace_s=10.0)
    facts = {_FACT: {name: raw for name, raw in current.facts[_FACT].items() if name != record.part}}
    state.save(around.store, current._replace(facts={**current.facts, **facts}))


def with_record(job: JobState, record: Record) -> JobState:
    """Return a job's state with what is known of one more container."""
    return job._replace(facts={**job.facts, _FACT: {**job.facts.get(_FACT, {}), record.part: record._asdict()}})


def names(job: JobState) -> tuple[str, ...]:
    """Return the names by which the containers of a job know each other."""
    found = [name for record in _records(job) for name in (record.hostname, record.name, record.id)]
    return tuple(dict.fromkeys(found))


def _records(job: JobState) -> list[Record]:
    """Read back what is known of a job's containers; nothing for a job that is none, or not yet."""
    entries = job.facts.get(_FACT)
    return [record for raw in entries.values() if (record := _record(raw))] if isinstance(entries, dict) else []


def _record(raw: Any) -> Record | None:
    try:
        mounts = tuple((source, target, read_only) for source, target, read_only in raw["mounts"])
        labels = tuple((name, value) for name, value in raw["labels"])
        ports = tuple(Port(*port) for port in raw["ports"])
        return Record(**{**raw, "mounts": mounts, "labels": labels, "main": Main(*raw["main"]), "ports": ports})
    except (KeyError, TypeError, ValueError):
        return None


def _is_hex(text: str) -> bool:
    return bool(text) and not text.strip("0123456789abcdef")

"""What jobs are using right now, and so nobody may remove."""

from __future__ import annotations

from runner import errors, paths
from runner.job import keeper, state
from runner.job.state import JobState
from runner.kernel import locks
from runner.record import NamedTuple


class Live(NamedTuple):
    """The jobs that live. With `is_certain` False there is one more whose record cannot be read, which may be using anything."""

    jobs: tuple[JobState, ...]
    is_certain: bool

    def has_slot(self, build_user: str, slot: int) -> bool:
        """Tell whether a job may be using this set of a build user's volumes and storage."""
        return not self.is_certain or any((job.build_user.name, job.slot) == (build_user, slot) for job in self.jobs)

    def has_build_user(self, name: str) -> bool:
        """Tell whether a job of a build user may live."""
        return not self.is_certain or any(job.build_user.name == name for job in self.jobs)

    def layers(self) -> set[str] | None:
        """Return the layers that containers have below them, as "map/name"; None if it may be any."""
        return {layer for job in self.jobs for layer in job.layers} if self.is_certain else None

    def has_image(self, digests: frozenset[str]) -> bool:
        """Tell whether a container of a job was made from one of these manifests."""
        return not self.is_certain or any(each.image_digest in digests for job in self.jobs for each in job.containers.values())


def look(store: paths.Store) -> Live:
    """Return the jobs that live: those of a running keeper, and those that somebody is making or ending. Takes no lock.

    A job claims its slot under `store.lock`, so the answer stays true for slots that nobody has, as long as the caller holds that.
    """
    jobs: list[JobState] = []
    is_certain = True
    for key in state.keys(store):
        is_held = locks.is_held(store.job_lock(key), shared=True)
        try:
            job = state.load(store, key)
        except errors.UserError:
            is_certain = False  # another version's job
            continue
        except errors.RunnerError:
            is_certain = is_certain and not is_held and not keeper.find(key)
            continue
        if job is not None and (is_held or _runs(job)):
            jobs.append(job)
    return Live(tuple(jobs), is_certain)


def is_dead(store: paths.Store, key: str) -> bool:
    """Tell whether a job has ended without being cleaned up, or whoever wanted it has. Takes no lock."""
    if locks.is_held(store.job_lock(key), shared=True):
        return False  # somebody is at it
    try:
        job = state.load(store, key)
    except errors.UserError:
        return not keeper.find(key)  # else another version's job, which that version will end
    except errors.RunnerError:
        return True  # no step of it can be run any more, so nobody misses it
    return job is None or not _runs(job) or state.is_orphaned(job)


def _runs(job: JobState) -> bool:
    return bool(job.keeper.pid) and job.keeper.is_alive()

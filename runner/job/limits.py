"""Limits of a job's containers: a cgroup v2 group for the job, a leaf for each container, where the account was given a subtree."""

import os

from runner import errors, log
from runner.job.state import JobState
from runner.job.undo import Undo
from runner.kernel import cgroup
from runner.model import JobSpec, Limits


def apply(current: JobState, spec: JobSpec, undo: Undo) -> JobState:
    """Make the job's groups and write down their paths; `undo` removes them on failure. One warning where limits cannot be kept."""
    sidecar = (spec.docker.container,) if spec.docker else ()
    wanted = {container.name: container.limits for container in (*spec.containers, *spec.services, *sidecar)}
    asked = [name for name, value in zip(Limits._fields, zip(*wanted.values(), strict=True), strict=True) if any(value)]
    if not asked:
        return current
    delegation = cgroup.delegated()
    if not delegation.directory:
        log.warn(f"limits of {', '.join(asked)} are not enforced on this machine: {delegation.reason}")
        return current
    directory = _directory(delegation.directory, spec.key)
    undo.add(lambda: remove(directory))
    containers = dict(current.containers)
    try:
        cgroup.make_inner(directory)
        for name, limits in wanted.items():
            is_sidecar = name not in containers  # in which the kernel is to kill one build, and not the engine with all others
            cgroup.make_leaf(f"{directory}/{name}", memory=limits.memory, cpus=limits.cpus, pids=limits.pids, as_one=not is_sidecar)
            if not is_sidecar:
                containers[name] = containers[name]._replace(cgroup=f"{directory}/{name}")
    except OSError as e:
        raise errors.InfraError(f"limits cannot be set in {e.filename or directory}: {e.strerror}", "run `dockless doctor`") from e
    return current._replace(containers=containers, cgroup=directory)


def directory(key: str) -> str:
    """Return where the groups of a job would be, "" where none are delegated."""
    delegated = cgroup.delegated().directory
    return _directory(delegated, key) if delegated else ""


def _directory(delegated: str, key: str) -> str:
    return f"{delegated}/dockless-{key}"


class Remover:
    """Removes a job's groups from a process that moves into the job, where they have no path any more."""

    def __init__(self, path: str) -> None:
        """Open the parent group; nothing for the path ""."""
        self._name = os.path.basename(path)
        self._parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if path else -1

    def remove(self) -> None:
        """Remove the groups; the job's processes have ended."""
        if self._parent >= 0:
            try:
                cgroup.remove_at(self._parent, self._name)
            except OSError as e:
                log.warn(f"cgroup {self._name} stays: {e.strerror}")
            os.close(self._parent)
            self._parent = -1


def remove(path: str) -> None:
    """Remove a job's groups. Idempotent; a group that stays is only a directory, so it is a warning."""
    if not path:
        return
    try:
        cgroup.remove(path)
    except OSError as e:
        log.warn(f"cgroup {path} stays: {e.strerror}")

"""Services: containers that run beside the job's steps from its start to its end."""

import os

from runner import errors, log, paths
from runner.job import keeper, log_bound, step
from runner.job.state import ContainerState, JobState
from runner.kernel import process
from runner.sandbox import crun


def start(current: JobState, name: str, *, store: paths.Store) -> None:
    """Start one service; what it prints goes to its log file. Raises RunnerErrors when it cannot be started."""
    container = current.container(name)
    log_fd = os.open(store.job_log(current.key, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # opened here, where the host's hierarchy is in sight; the job sees only its own
    procs = os.open(f"{container.cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) if container.cgroup else -1
    try:
        keeper.call(current.keeper, lambda: _start(container, log_fd, procs, log_bytes=current.disk.log))
    finally:
        os.close(log_fd)
        if procs >= 0:
            os.close(procs)


def _start(container: ContainerState, log_fd: int, procs: int, *, log_bytes: int) -> None:
    output = log_bound.pipe(log_fd, log_bytes)
    if procs >= 0:
        os.write(procs, b"0")
    step_id = f"{container.name}.0"
    bundle = f"{paths.RUN}/c/{container.name}/{step_id}"
    try:
        argv = step.write_bundle(bundle, container, step.Request(container.name))
        code = process.run_leaving_children(crun.run_argv(bundle, step_id, detach=True), output=output)
        if code != 0:
            raise crun.failure(bundle, argv) or errors.InfraError(f"crun ended with {code}")
    except (errors.UserError, errors.InfraError) as e:
        kind = errors.UserError if isinstance(e, errors.UserError) else errors.InfraError
        raise kind(f"service {container.image} cannot be started: {e.message}", e.hint) from e


def log_tail(store: paths.Store, key: str, name: str, *, limit_bytes: int = 64 * 1024) -> str:
    """Return the last `limit_bytes` of what a service printed, as it may stand in a job log."""
    try:
        fd = os.open(store.job_log(key, name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        size = os.fstat(fd).st_size
        return log.masked(log.quote(os.pread(fd, limit_bytes, max(0, size - limit_bytes)).decode(errors="replace")))
    finally:
        os.close(fd)

"""One container, one process, then nothing: `dockless run`."""

from __future__ import annotations

import os

from runner import errors
from runner.job import prepare
from runner.job.surroundings import Surroundings
from runner.kernel import files, process, signals
from runner.model import ContainerSpec, DockerSpec, IdMap, Image, JobSpec, Outcome, RunRequest, VolumeSpec
from runner.sandbox import build_users, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.job.state import JobState

CONTAINER = "main"


def run(request: RunRequest, around: Surroundings) -> Outcome:
    """Run one process in a container of its own and leave nothing behind, also when this process is killed.

    Raises RunnerErrors; crun.StartFailure when the program cannot be started. Moves this process into the job: call once.
    """
    spec = job_spec(request, around, key=f"run-{os.getpid()}-{os.urandom(3).hex()}")
    return run_job(spec, around, fetch=lambda asked, id_map: fetch(asked, around, id_map), terminal=request.terminal)


def run_job(
    spec: JobSpec,
    around: Surroundings,
    *,
    fetch: Callable[[ContainerSpec, IdMap], Image],
    terminal: bool = False,
    stops: bool = False,
    grace_s: float = 10.0,
    stdin: int = 0,
    hangup_fd: int = -1,
    hangup_grace_s: float = 10.0,
    then: Callable[[JobState, Outcome], None] = lambda job, outcome: None,
) -> Outcome:
    """Run the process of the only container of a job, then call `then` while its files are there, and leave nothing behind.

    `stops`: a signal to us ends every process and not only PID 1, within `grace_s`. So does, `hangup_grace_s` later, the end of what can
    come from `hangup_fd`, a pipe or socket. Raises like `run`, and what `then` raises.
    """
    current = prepare.prepare(spec, around, fetch=fetch, facts={}, lasting=False)
    pidfd, groups = -1, None
    try:
        from runner.job import limits, step  # loaded by `prepare` in the meantime

        pidfd = process.open_pidfd(current.keeper.pid, current.keeper.started)
        groups = limits.Remover(current.cgroup)
        request = step.Request(
            CONTAINER, stops=stops, terminal=terminal, guarded=False, grace_s=grace_s, stdin=stdin,
            hangup_fd=hangup_fd, hangup_grace_s=hangup_grace_s,
        )  # fmt: skip
        signals.pthread_sigmask(signals.SIG_SETMASK, ())  # what a caller has held back comes when there is somebody to take all back
        outcome = step.run(current, request)
        then(current, outcome)
        _end_undisturbed()
        return outcome
    finally:
        _end_undisturbed()
        # the container's processes have ended with its PID 1; the kernel takes down mounts and devices while files are removed here,
        # and nobody has to wait for that
        if pidfd >= 0:
            signals.pidfd_send_signal(pidfd, signals.SIGKILL)
            if spec.docker:
                process.wait_pidfd(pidfd, 10.0)  # an engine and its containers might still be writing there
            os.close(pidfd)
        _remove(around, current)
        if groups:
            groups.remove()


def _remove(around: Surroundings, current: JobState) -> None:
    """Remove the files of the job whose step this process has run, or was about to run when it was interrupted."""
    try:
        # this process is root of the job's namespaces now, so it may remove the files of both the account and the build user
        files.remove_tree(around.store.job(current.key))
        files.remove_tree(around.store.job_lock(current.key))
    except PermissionError:
        from runner.job import cleanup  # it has not come that far

        cleanup.end(around.store, current.key, current, around.account)


def _end_undisturbed() -> None:
    """Let no signal that asks us to end come between the end of a container and the removal of its files: the end is what it asks for."""
    for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP):
        signals.signal(number, signals.SIG_IGN)


def job_spec(request: RunRequest, around: Surroundings, *, key: str) -> JobSpec:
    """Return the job of one container that a request means. UserError for volumes that are refused."""
    volumes = mounts.parse_all(request.volumes, state_dir=around.store.root, cwd=os.getcwd())
    api, api_env = _docker(request, around, volumes) if request.docker else (None, ())
    container = ContainerSpec(
        name=CONTAINER,
        image=request.image or around.settings.images.default,
        pull_policy=(request.pull or "if-not-present",),
        platform=request.platform,
        entrypoint=request.entrypoint,
        command=request.argv or None,
        env=(*api_env, *request.env),
        user=request.user,
        working_dir=request.cwd,
        hostname=request.hostname or key.rpartition("-")[2].rjust(12, "0"),
        volumes=volumes,
        limits=request.limits,
        init=request.init,
    )
    return JobSpec(
        key=key,
        build_user=request.build_user or build_users.LOCAL,
        containers=(container,),
        network=request.network or "default",
        docker=api,
        shared_id=shared_id(volumes, request.user),
    )


def _docker(request: RunRequest, around: Surroundings, volumes: tuple[VolumeSpec, ...]) -> tuple[DockerSpec, tuple[tuple[str, str], ...]]:
    from runner.job import docker_spec

    if around.settings.docker.mode == "off":
        raise errors.UserError("the configuration permits no Docker API", "docker: replace in it permits --docker")
    api = docker_spec.make(around, volumes=volumes, shared_id=shared_id(volumes, request.user), limits=request.limits)
    return api, docker_spec.environment(api, dict(request.env))


def shared_id(volumes: tuple[VolumeSpec, ...], user: str) -> int | None:
    """Return the container id that has to be the account: the one that writes to a bound directory, if one is bound.

    What it writes there then belongs to the account and can be deleted by it. A user given by name counts as root.
    """
    if not any(volume.kind == "bind" for volume in volumes):
        return None
    number = user.partition(":")[0]
    return int(number) if number.isascii() and number.isdigit() and int(number) < 65536 else 0


def fetch(asked: ContainerSpec, around: Surroundings, id_map: IdMap) -> Image:
    """Return the stored image of a container with an id map, or pull it where its policy says so."""
    from runner.image import images

    # where there are rules about images, what is stored is judged by them as well, in pull.ensure
    if asked.pull_policy[0] in ("if-not-present", "never") and not around.settings.images.trust:
        stored = images.find(around.store, asked.image, platform=asked.platform, id_map=id_map)
        if stored:
            return stored
    # the registry client takes 90 ms to import: only those who need the network pay for it
    from runner.image import auth, pull

    keychain = auth.Keychain.of_account(around.account.home, os.environ)
    return pull.ensure(
        asked.image, store=around.store, settings=around.settings, keychain=keychain, policies=asked.pull_policy, platform=asked.platform,
        id_map=id_map,
    )  # fmt: skip

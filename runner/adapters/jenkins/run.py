"""`docker run`: a job of one container whose main process goes on by itself (-d), or a process in the foreground."""

from __future__ import annotations

import os
import time

from runner import errors
from runner.adapters.jenkins import containers, run_plan, signal_names
from runner.job import cleanup, detached, oneoff, prepare, state
from runner.job.detached import Adjustments, Main
from runner.job.forward import Port
from runner.kernel import files, process
from runner.model import ContainerSpec, JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.adapters.jenkins.run_plan import Plan
    from runner.adapters.jenkins.shim import Shim
    from runner.job.prepare import Fetch
    from runner.job.state import JobState
    from runner.job.surroundings import Surroundings
    from runner.model import IdMap, Image


def main(arguments: Sequence[str], shim: Shim) -> int:
    """Run a container. Prints its id with -d, otherwise returns the exit code of its process. Raises RunnerErrors."""
    parsed = run_plan.GRAMMAR.parse(arguments)
    if not parsed.words:
        raise errors.UserError("docker run: no image is named")
    container_id = containers.new_id()
    plan = run_plan.make(parsed, shim, container_id=container_id)
    if plan.name and containers.find(shim.around, plan.name):
        raise errors.UserError(f"docker run: the name {plan.name!r} is in use by another container")
    if plan.detach:
        start(plan, shim, container_id)
        print(container_id)
        return 0
    return _foreground(plan, shim)


def start(plan: Plan, shim: Shim, container_id: str) -> None:
    """Start the container in a job of its own, or in that of the containers that it is linked to. Raises RunnerErrors."""
    around = shim.around
    if plan.dns:
        around = around._replace(settings=around.settings._replace(network=around.settings.network._replace(dns=plan.dns)))
    images: list[Image] = []

    def fetch(asked: ContainerSpec, id_map: IdMap) -> Image:
        images.append(oneoff.fetch(asked, around, id_map))
        return images[-1]

    def create(current: JobState) -> detached.Creating:
        files.make_directory(f"{around.store.job(current.key)}/logs")
        log_path = around.store.job_log(current.key, plan.container.name)
        return detached.create(
            current, plan.container.name, log_path=log_path, endless_stdin=plan.terminal or plan.interactive, adjustments=plan.adjustments
        )

    def begin(current: JobState, creating: detached.Creating) -> JobState:
        """Start the container's process, and return the job's state with it."""
        try:
            ports = _published(plan, current)
        except BaseException:
            creating.abandon()  # its child is in the job, whose end would wait for it
            raise
        return containers.with_record(current, _record(plan, container_id, creating.start(), images[-1], ports))

    if plan.links:
        from runner.adapters.jenkins import linking

        linking.start(plan, around, fetch=fetch, begin=lambda current: begin(current, create(current)))
    else:
        _start_job(plan, shim, around, container_id, fetch=fetch, create=create, begin=begin)


def _start_job(
    plan: Plan,
    shim: Shim,
    around: Surroundings,
    container_id: str,
    *,
    fetch: Fetch,
    create: Callable[[JobState], detached.Creating],
    begin: Callable[[JobState, detached.Creating], JobState],
) -> None:
    """Make the job and start the container's process; all of it or nothing, also when this process is killed meanwhile."""
    own = os.getpid()
    spec = _job_spec(plan, shim, key=containers.key(container_id))._replace(owner=(own, process.start_time(own)))
    creating: list[detached.Creating] = []
    current = prepare.prepare(spec, around, fetch=fetch, facts={}, furnished=lambda made: creating.append(create(made)))
    try:
        # until now the job was an orphan as soon as we ended
        state.save(around.store, begin(current, creating[0])._replace(owner=(0, 0)))
    except BaseException:
        cleanup.cleanup(around.store, current.key, around.account)
        raise


def _published(plan: Plan, current: JobState) -> tuple[Port, ...]:
    """Listen at the ports that were asked for."""
    container = current.container(plan.container.name)
    wanted = list(plan.ports)
    if plan.publishes_all:
        exposed = [int(text.partition("/")[0]) for text in container.exposed_ports if text.partition("/")[2] in ("", "tcp")]
        wanted += [Port(number, "0.0.0.0", 0) for number in exposed]
    if not wanted:
        return ()
    if not container.ip:
        raise errors.UserError("docker run: -p and --network=none exclude each other")
    from runner.job import forward  # few containers publish ports

    return forward.publish(current, container.ip, wanted)


def _job_spec(plan: Plan, shim: Shim, *, key: str) -> JobSpec:
    return JobSpec(
        key=key,
        build_user=shim.build_user,
        containers=(plan.container,),
        network=plan.network,
        extra_hosts=plan.hosts,
        shared_id=plan.shared[0] if plan.shared else None,
        shared_gid=plan.shared[1] if plan.shared else None,
    )


def _record(plan: Plan, container_id: str, begun: Main, image: Image, ports: tuple[Port, ...]) -> containers.Record:
    return containers.Record(
        id=container_id,
        name=plan.name or f"c_{containers.short(container_id)}",
        part=plan.container.name,
        image=plan.container.image,
        image_id=image.config_digest,
        hostname=plan.hostname,
        created=time.time(),
        mounts=tuple((volume.source, volume.target, volume.read_only) for volume in plan.container.volumes),
        labels=plan.labels,
        stop_signal=plan.stop_signal or signal_names.number(image.config.stop_signal or "TERM"),
        auto_remove=plan.remove,
        main=begun,
        ports=ports,
    )


def _foreground(plan: Plan, shim: Shim) -> int:
    """Run the container's process in the foreground, then remove the container: what `docker run --rm` means."""
    if plan.links or plan.ports or plan.publishes_all:
        raise errors.UserError("docker run: --link and -p are served with -d only")
    if plan.adjustments != Adjustments():
        raise errors.UserError("docker run: --tmpfs, --shm-size, --ulimit, --group-add, --read-only and --cap-drop are served with -d only")
    around = shim.around
    if not plan.interactive:
        os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    outcome = oneoff.run_job(
        _job_spec(plan, shim, key=f"run-{os.getpid()}-{os.urandom(3).hex()}"), around,
        fetch=lambda asked, id_map: oneoff.fetch(asked, around, id_map), terminal=plan.terminal and os.isatty(0),
    )  # fmt: skip
    return outcome.exit_code

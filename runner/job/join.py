"""One more container in a job that stands, for one process: with ids and an endpoint of its own in the job's network, and then gone.

Its mounts are in a mount namespace of the process that runs it, so they end with that, and what is removed afterwards has none in it.
"""

from __future__ import annotations

from runner import paths
from runner.image import layers
from runner.job import furnish, keeper, state, step
from runner.job.endpoint import JOB, Endpoint
from runner.job.state import ContainerState, JobState
from runner.kernel import files, process, syscalls, userns
from runner.model import Volume
from runner.sandbox import network, uplink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.job.surroundings import Surroundings
    from runner.model import ContainerSpec, Image, Outcome, VolumeSpec

_NUMBER = 251  # of its endpoint, the last one that there is; the process is one of a job's steps, which run in turn


def run(
    current: JobState,
    asked: ContainerSpec,
    around: Surroundings,
    *,
    image: Image,
    shared_id: int,
    extra_hosts: tuple[tuple[str, str], ...],
    parent_pid: int,
    stdin: int,
    grace_s: float,
    with_docker: bool = False,
) -> Outcome:
    """Run the process of a container that gets the job's network, and return how it ended; `remove` has to follow, elsewhere.

    `shared_id` is the account's id in it, whatever it is in the job's other containers. `with_docker`: it sees the
    job's Docker API. Moves this process, which has to be a child of `parent_pid` and ends with it, into the job for good. Raises
    RunnerErrors.
    """
    container_map = current.build_user.shared_map(around.account, container_id=shared_id)

    def use(names: Sequence[str]) -> None:
        used = tuple(dict.fromkeys((*current.layers, *names)))
        state.save(around.store, current._replace(layers=used))

    lowers = layers.lower_directories(image, container_map, store=around.store, use=use) if image.layers or image.digest else ()
    addresses = network.addresses(around.settings.network.subnet)
    hostname = asked.hostname or "action"
    endpoint = Endpoint(asked.name, _NUMBER, hostname, addresses.endpoint(_NUMBER), (hostname, *asked.aliases))
    volumes = tuple(_volume(current, around, wish) for wish in asked.volumes)
    container = furnish.Container(
        asked=asked, image=image, lowers=lowers, directory=around.store.container(current.key, asked.name), volumes=volumes,
        made_volumes=tuple(v.source for v, wish in zip(volumes, asked.volumes, strict=True) if wish.kind != "bind"), endpoint=endpoint,
        shown=(Volume(paths.DOCKER_SOCKET, "/var/run/docker.sock"),) if with_docker else (),
    )  # fmt: skip
    plan = furnish.Plan(
        containers=(container,),
        endpoints=(endpoint, *_others(current)),
        addresses=addresses,
        mtu=around.mtu(),
        resolv_conf=uplink.resolv_conf(addresses, around.settings.network.dns),
        extra_hosts=extra_hosts,
        inner_map=userns.relative(container_map, current.build_user.keeper_map(around.account)),
        filters=around.store.seccomp,
        security=around.settings.security,
    )
    entrypoint, command = furnish.entrypoint_and_command(asked, image.config)
    record = ContainerState(
        asked.name, False, asked.name, endpoint.ip, endpoint.names, asked.image, image.digest, image.config.exposed_ports,
        entrypoint, command, 0, 0, "",
    )  # fmt: skip

    def make() -> None:
        process.die_with(parent_pid)  # again: our credentials have changed
        syscalls.unshare(syscalls.CLONE_NEWNS)
        process.fork_call(lambda: furnish.join(plan))

    joined = current._replace(containers={**current.containers, asked.name: record})
    return step.run(joined, step.Request(asked.name, stdin=stdin, grace_s=grace_s), make=make)


def remove(current: JobState, asked: ContainerSpec, around: Surroundings) -> None:
    """Remove the files of a container whose process has ended. Idempotent. Raises RunnerErrors and OSErrors."""
    own = [around.store.job_volume(current.key, wish.source) for wish in asked.volumes if wish.kind == "job"]

    def forget() -> None:
        step.end_leftovers(asked.name)
        for path in (furnish.bundle(asked.name), *(paths.namespace(kind, asked.name) for kind in ("user", "net", "ipc", "uts"))):
            files.remove_tree(path)
        for path in (around.store.container(current.key, asked.name), *own):
            files.remove_tree(path)

    keeper.call(current.keeper, forget)


def _others(current: JobState) -> list[Endpoint]:
    """Return the job's other endpoints, for the names in /etc/hosts."""
    found = {each.endpoint: Endpoint(each.endpoint, 0, "", each.ip, each.aliases) for each in current.containers.values() if each.ip}
    return [found[name] for name in sorted(found, key=lambda name: name != JOB)]


def _volume(current: JobState, around: Surroundings, wish: VolumeSpec) -> Volume:
    if wish.kind == "bind":
        return Volume(wish.source, wish.target, wish.read_only)
    return Volume(around.store.job_volume(current.key, wish.source), wish.target, wish.read_only)

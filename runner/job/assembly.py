"""Filling a keeper: reap, slot, images, roots, network, limits, services.

prepare starts the keeper and loads this file while another process makes it: importing all of this lasts half as long.
"""

from __future__ import annotations

import os
import time

from runner import errors, log, paths
from runner.image import images as stored
from runner.image import layers
from runner.job import cleanup, furnish, gc, keeper, last_use, limits, live, services, state
from runner.job.endpoint import JOB, Endpoint
from runner.job.state import ContainerState, JobState
from runner.kernel import files, locks, userns
from runner.model import Volume, VolumeSpec
from runner.sandbox import build_users, network, uplink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from runner.job.keeper_start import Starting
    from runner.job.surroundings import Surroundings
    from runner.job.undo import Undo
    from runner.model import Account, BuildUser, ContainerSpec, DockerSpec, IdMap, Image, JobSpec

    Fetch = Callable[[ContainerSpec, IdMap], Image]


def assemble(
    spec: JobSpec,
    around: Surroundings,
    starting: Starting,
    undo: Undo,
    *,
    user: BuildUser,
    container_map: IdMap,
    endpoint: Endpoint,
    addresses: network.Addresses | None,
    fetch: Fetch,
    facts: dict[str, Any],
    furnished: Callable[[JobState], object] | None,
) -> JobState:
    """Make everything of a job but its keeper, and return its state; services have been started, not waited for.

    `furnished` hears when containers could be created, while the network is still being made. `undo` learns what to take back.
    Raises RunnerErrors.
    """
    store = around.store
    undo.add(lambda: cleanup.remove_files(store, spec.key, user, around.account))
    gc.reap(store, around.account, but=spec.key)
    disk = around.settings.disk
    bounds = state.DiskBounds(store.job(spec.key), disk.disk, disk.disk_reserve, disk.log)
    current = _claim_slot(store, around.account, spec, user, facts)._replace(disk=bounds)
    found = _Images(store, current, container_map, fetch)
    images = {asked.name: found.get(asked) for asked in (*spec.services, *spec.containers)}
    lowers = {name: found.layers_of(image) for name, image in images.items()}
    current = found.state._replace(keeper=starting.ready())
    undo.add(lambda: keeper.kill(current.keeper))
    plan = _plan(spec, around, current, images=images, lowers=lowers, container_map=container_map, job=endpoint, addresses=addresses)
    api = None
    if spec.docker:
        from runner.job import docker  # for jobs that ask for it

        sidecar = _sidecar_plan(plan, spec.docker, store, current)
        api = docker.start(current.keeper, spec.docker, sidecar, log=store.job_log(spec.key, docker.CONTAINER), log_bytes=disk.log)
    log.debug("furnishing")
    if spec.services:
        starting.online()  # their endpoints need the bridge
    try:
        users = keeper.call(current.keeper, lambda: furnish.run(plan), young=not spec.services)
        current = limits.apply(_record(current, plan, users), spec, undo)
        state.save(store, current)
        if furnished:
            starting.pinned()
            furnished(current)
    finally:
        if not spec.services:
            starting.online()  # if not, the keeper has ended under us, and this says why
    if api:
        api.finish(current)
    first = []
    if spec.staying:
        from runner.job import stay

        first = [stay.start(current, name) for name in spec.staying]
    for asked in spec.services:
        services.start(current, asked.name, store=store)
    for each in first:
        each.finish()
    return current


def _claim_slot(store: paths.Store, account: Account, spec: JobSpec, user: BuildUser, facts: dict[str, Any]) -> JobState:
    """Choose the lowest slot of the build user that no live job has, and write that down before anybody else looks."""
    with locks.hold(store.lock):
        build_users.confirm(store, account, user)
        taken = {job.slot for job in live.look(store).jobs if job.build_user.name == user.name and job.key != spec.key}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        files.remove_tree(store.job_state(spec.key))
        files.make_directory(store.job(spec.key))
        claimed = JobState(
            key=spec.key, build_user=user, slot=slot, shared_id=spec.shared_id, keeper=state.NO_KEEPER,
            containers={}, facts=facts, cgroup="", created=time.time(), owner=spec.owner, shared_gid=spec.shared_gid,
        )  # fmt: skip
        state.save(store, claimed)
    _note_use(store, claimed, (*spec.containers, *spec.services, *((spec.docker.container,) if spec.docker else ())))
    for name in ("containers", *(("logs",) if spec.services or spec.docker else ())):  # "volumes" comes with the first one
        files.make_directory(f"{store.job(spec.key)}/{name}")
    return claimed


def _note_use(store: paths.Store, current: JobState, asked: Sequence[ContainerSpec]) -> None:
    """Write down that volumes which outlive the job are used now."""
    for path in sorted({_kept(store, current, wish) for each in asked for wish in each.volumes} - {""}):
        furnish.make_parents(path)
        last_use.mark(path)


def add(
    current: JobState,
    asked: ContainerSpec,
    around: Surroundings,
    *,
    names: tuple[str, ...],
    extra_hosts: tuple[tuple[str, str], ...],
    fetch: Fetch,
) -> JobState:
    """Furnish one more container of a job that stands, in the network of its own containers, which has `names` in it.

    Returns the new state. The caller holds the job's lock. Not taken back when it fails: it ends with the job. Raises RunnerErrors.
    """
    if any(asked.limits):
        raise errors.UserError("a container that shares another one's network cannot have limits of its own")
    store, user = around.store, current.build_user
    _note_use(store, current, [asked])
    container_map = user.isolated_map()
    if current.shared_id is not None:
        container_map = user.shared_map(around.account, container_id=current.shared_id, container_gid=current.shared_gid)
    found = _Images(store, current, container_map, fetch)
    image = found.get(asked)
    lowers = found.layers_of(image)
    first = next(container for container in current.containers.values() if container.endpoint == JOB)
    endpoint = Endpoint(JOB, 0, asked.hostname, first.ip, names)
    addresses = network.addresses(around.settings.network.subnet) if first.ip else None
    plan = furnish.Plan(
        containers=(_container(store, found.state, asked, image, lowers, endpoint),),
        endpoints=(endpoint,),
        addresses=addresses,
        mtu=around.mtu(),
        resolv_conf=uplink.resolv_conf(addresses, around.settings.network.dns) if addresses else "",
        extra_hosts=extra_hosts,
        inner_map=userns.relative(container_map, user.keeper_map(around.account)),
        filters=store.seccomp,
        security=around.settings.security,
    )
    users = keeper.call(current.keeper, lambda: furnish.add(plan))
    added = _record(found.state, plan, users)
    return added._replace(containers={**current.containers, **added.containers})


class _Images:
    """The images of a job: each distinct wish is fetched once, and its layers are on the job's record before it uses them."""

    def __init__(self, store: paths.Store, state: JobState, container_map: IdMap, fetch: Fetch) -> None:
        self.state = state
        self._store, self._map, self._fetch = store, container_map, fetch
        self._found: dict[tuple[object, ...], tuple[Image, tuple[str, ...]]] = {}

    def get(self, asked: ContainerSpec) -> Image:
        """Return a container's image; its layers are unpacked and will stay."""
        wish = (asked.image, asked.pull_policy, asked.platform)
        if wish not in self._found:
            try:
                self._found[wish] = self._bring(asked)
            except errors.Temporary as e:
                # a blob was damaged, or collected just now: it is absent from now on, and the policy says whether it may come again
                log.debug(f"image {asked.image} is fetched again: {e.message}")
                self._found[wish] = self._bring(asked)
        return self._found[wish][0]

    def layers_of(self, image: Image) -> tuple[str, ...]:
        """Return the lower directories of an image that `get` returned, topmost first; () for the toolbox."""
        return next(lowers for found, lowers in self._found.values() if found is image)

    def _bring(self, asked: ContainerSpec) -> tuple[Image, tuple[str, ...]]:
        """Fetch an image and find its layers; in between the collector cannot take it, because its record is claimed."""
        image = self._fetch(asked, self._map)
        if image.source == stored.TOOLBOX:
            return image, ()
        claim = stored.claim(self._store, asked.image)
        if claim is None:
            raise errors.Temporary(f"image {asked.image} was removed as soon as it was there", "is `dockless gc` running all the time?")
        try:
            return image, layers.lower_directories(image, self._map, store=self._store, use=self._use)
        finally:
            os.close(claim)

    def _use(self, names: Sequence[str]) -> None:
        used = tuple(dict.fromkeys((*self.state.layers, *names)))
        if used != self.state.layers:
            self.state = self.state._replace(layers=used)
            state.save(self._store, self.state)


def _plan(
    spec: JobSpec,
    around: Surroundings,
    current: JobState,
    *,
    images: dict[str, Image],
    lowers: dict[str, tuple[str, ...]],
    container_map: IdMap,
    job: Endpoint,
    addresses: network.Addresses | None,
) -> furnish.Plan:
    """Lay down, without doing it, what the job's namespaces will hold."""
    endpoints = _endpoints(spec, job, addresses)
    containers = []
    for asked in (*spec.containers, *spec.services):
        container = _container(around.store, current, asked, images[asked.name], lowers[asked.name], endpoints[asked.name])
        containers.append(container._replace(shown=_shown(spec.docker)) if spec.docker and asked in spec.containers else container)
    return furnish.Plan(
        containers=tuple(containers),
        endpoints=tuple(dict.fromkeys(endpoints.values())),
        addresses=addresses,
        mtu=around.mtu(),
        resolv_conf=uplink.resolv_conf(addresses, around.settings.network.dns) if addresses else "",
        extra_hosts=spec.extra_hosts,
        inner_map=userns.relative(container_map, current.build_user.keeper_map(around.account)),
        filters=around.store.seccomp,
        security=around.settings.security,
        docker=spec.docker is not None,
    )


def _container(
    store: paths.Store, current: JobState, asked: ContainerSpec, image: Image, lowers: tuple[str, ...], endpoint: Endpoint
) -> furnish.Container:
    volumes = tuple(_volume(store, current, wish) for wish in asked.volumes)
    return furnish.Container(
        asked=asked,
        image=image,
        lowers=lowers,
        directory=store.container(current.key, asked.name),
        volumes=volumes,
        made_volumes=tuple(v.source for v, wish in zip(volumes, asked.volumes, strict=True) if wish.kind != "bind"),
        endpoint=endpoint,
    )


def _shown(asked: DockerSpec, *, sidecar: bool = False) -> tuple[Volume, ...]:
    """Return what of the Docker API a container of the job, or the sidecar itself, gets to see."""
    from runner.job import docker

    return docker.volumes_of_sidecar(asked) if sidecar else docker.volumes(asked)


def _sidecar_plan(plan: furnish.Plan, asked: DockerSpec, store: paths.Store, current: JobState) -> furnish.Plan:
    """Return how the Docker sidecar will be furnished: in the endpoint of the job's own containers."""
    endpoint = next(endpoint for endpoint in plan.endpoints if endpoint.name == JOB)
    sidecar = _container(store, current, asked.container, stored.toolbox(), (), endpoint)
    return plan._replace(containers=(sidecar._replace(shown=_shown(asked, sidecar=True)),))


def _endpoints(spec: JobSpec, job: Endpoint, addresses: network.Addresses | None) -> dict[str, Endpoint]:
    """Give the job's own containers one endpoint, since they run in turn, and every service one of its own."""
    found = {container.name: job for container in spec.containers}
    for index, service in enumerate(spec.services, start=1):
        own = service.hostname or (service.aliases[0] if service.aliases else service.name)
        ip = addresses.endpoint(index) if addresses else ""
        found[service.name] = Endpoint(service.name, index, own, ip, tuple(dict.fromkeys((*service.aliases, own))))
    return found


def _volume(store: paths.Store, current: JobState, wish: VolumeSpec) -> Volume:
    if wish.kind == "bind":
        return Volume(wish.source, wish.target, wish.read_only)
    if wish.kind == "job":
        return Volume(store.job_volume(current.key, wish.source), wish.target, wish.read_only)
    return Volume(_kept(store, current, wish), wish.target, wish.read_only)


def _kept(store: paths.Store, current: JobState, wish: VolumeSpec) -> str:
    """Return where a volume is that outlives the job, "" for others."""
    match wish.kind:
        case "build-user":
            return store.build_user_volume(current.build_user.name, current.slot, wish.source)
        case "storage":
            return store.build_storage(current.build_user.name, wish.source, current.slot)
    return ""


def _record(current: JobState, plan: furnish.Plan, users: dict[str, list[int]]) -> JobState:
    containers = {}
    for container in plan.containers:
        entrypoint, command = furnish.entrypoint_and_command(container.asked, container.image.config)
        containers[container.asked.name] = ContainerState(
            name=container.asked.name,
            is_service=container.endpoint.name != JOB,
            endpoint=container.endpoint.name,
            ip=container.endpoint.ip,
            aliases=container.endpoint.names,
            image=container.asked.image,
            image_digest=container.image.digest,
            exposed_ports=container.image.config.exposed_ports,
            entrypoint=entrypoint,
            command=command,
            uid=users[container.asked.name][0],
            gid=users[container.asked.name][1],
            cgroup="",
        )
    return current._replace(containers=containers)

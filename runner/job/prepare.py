"""Making a job: lease, keeper, images, roots, network, services; all of it or nothing.

Until `prepare` returns, the keeper ends with this process, and the job's lock says that it is being made; so a crash leaves only
directories, which the next `gc.reap` removes.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from runner import errors, log, paths
from runner.config import Settings
from runner.image import layers, reference
from runner.job import cleanup, furnish, gc, keeper, keeper_start, limits, services, state
from runner.job.state import ContainerState, JobState
from runner.kernel import files, locks, netlink, userns
from runner.model import Account, BuildUser, ContainerSpec, IdMap, Image, JobSpec, Volume, VolumeSpec
from runner.record import NamedTuple
from runner.sandbox import build_users, network, uplink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Fetch = Callable[[ContainerSpec], Image]

_LONGEST_HOSTNAME = 64  # what uname(2) has room for


class Surroundings(NamedTuple):
    """What every job of this process shares."""

    store: paths.Store
    settings: Settings
    account: Account


def prepare(spec: JobSpec, around: Surroundings, *, fetch: Fetch, facts: dict[str, Any], lasting: bool = True) -> JobState:
    """Make the job that `spec` asks for and return its state; services have been started, not waited for.

    `fetch` returns the stored image of a container, pulling it where its policy says so; it is called while the keeper is being made.
    `lasting` lets the job outlive this process; without it the job ends when `release` is called or this process dies.
    Raises RunnerErrors and then leaves nothing behind.
    """
    store = around.store
    _refuse_odd_names(spec)
    with ExitStack() as stack:
        lock = _take_key(store, spec.key, stack)
        stack.callback(lambda: files.remove_tree(store.job_lock(spec.key)))
        gc.reap(store, around.account, but=spec.key)
        user = build_users.lease(store, around.account, spec.build_user)
        stack.callback(lambda: cleanup.remove_files(store, spec.key, user, around.account))
        current = _claim_slot(store, spec, user, facts)
        container_map = _container_map(spec, user, around.account)
        starting = keeper_start.start(_keeper_request(spec, around, user, container_map))
        stack.callback(starting.close)
        images = _fetch_all(spec, fetch)
        lowers = {
            name: () if image.source == "toolbox" else tuple(layers.lower_directories(image, container_map, store=store))
            for name, image in images.items()
        }
        current = current._replace(keeper=starting.ready())
        stack.callback(lambda: keeper.kill(current.keeper))
        plan = _plan(spec, around, current, images=images, lowers=lowers, container_map=container_map)
        log.debug("furnishing")
        users = keeper.call(current.keeper, lambda: furnish.run(plan))
        current = limits.apply(_record(current, plan, users), spec, stack)
        state.save(store, current)
        for asked in spec.services:
            services.start(current, asked.name, store=store)
        if lasting:
            starting.commit()
            os.close(lock)  # from here on the keeper says that the job is alive; without one, this process does
        stack.pop_all()
    return current


def _refuse_odd_names(spec: JobSpec) -> None:
    """Raise UserError for names that the kernel, the store or a registry would choke on later."""
    try:
        paths.component(spec.build_user)
    except ValueError as e:
        raise errors.UserError(
            f"build user {spec.build_user[:80]!r} cannot be used", "up to 200 letters, digits, dots, hyphens, plus signs and underscores"
        ) from e
    for container in (*spec.containers, *spec.services):
        reference.canonical(container.image)
        if container.hostname and not _is_hostname(container.hostname):
            raise errors.UserError(
                f"host name {container.hostname[:80]!r} cannot be used", "up to 64 letters, digits, dots, hyphens and underscores"
            )


def _is_hostname(name: str) -> bool:
    letters = name.replace("_", "a")
    inner = letters.replace(".", "a").replace("-", "a")
    return inner.isascii() and inner.isalnum() and letters[0].isalnum() and letters[-1].isalnum() and len(name) <= _LONGEST_HOSTNAME


def _take_key(store: paths.Store, key: str, stack: ExitStack) -> int:
    """Take the job's lock and return its descriptor; InfraError if the job exists already."""
    fd = locks.try_take(store.job_lock(key))
    if fd is None:
        raise errors.InfraError(f"job {key} is being prepared or ended by another process", "wait for it, or end that process")
    stack.callback(os.close, fd)
    existing = state.load(store, key)
    if existing and existing.keeper.pid and existing.keeper.is_alive():
        raise errors.InfraError(
            f"job {key} is already running (keeper: process {existing.keeper.pid})", "a job id runs once at a time: end it first"
        )
    return fd


def _claim_slot(store: paths.Store, spec: JobSpec, user: BuildUser, facts: dict[str, Any]) -> JobState:
    """Choose the lowest slot of the build user that no live job has, and write that down before anybody else looks."""
    with locks.hold(store.lock):
        alive = [job for job, is_alive in state.every(store) if is_alive and job.key != spec.key]
        taken = {job.slot for job in alive if job.build_user.name == user.name}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        files.remove_tree(store.job_state(spec.key))
        files.make_directory(store.job(spec.key))
        claimed = JobState(
            key=spec.key, build_user=user, slot=slot, shared_id=spec.shared_id, keeper=state.NO_KEEPER,
            containers={}, facts=facts, cgroup="", created=time.time(), owner=spec.owner,
        )  # fmt: skip
        state.save(store, claimed)
    for name in ("containers", *(("logs",) if spec.services else ())):  # "volumes" comes with the first one
        files.make_directory(f"{store.job(spec.key)}/{name}")
    return claimed


def _container_map(spec: JobSpec, user: BuildUser, account: Account) -> IdMap:
    if spec.shared_id is None:
        return user.isolated_map()
    return user.shared_map(account, container_id=spec.shared_id)


def _keeper_request(spec: JobSpec, around: Surroundings, user: BuildUser, container_map: IdMap) -> keeper_start.Request:
    return keeper_start.Request(
        name=spec.key,
        keeper_map=user.keeper_map(around.account),
        container_map=container_map,
        addresses=_addresses(spec, around.settings),
        mtu=around.settings.network.mtu or netlink.default_route_mtu(),
    )


def _addresses(spec: JobSpec, settings: Settings) -> network.Addresses | None:
    if spec.network == "none":
        return None
    try:
        return network.addresses(settings.network.subnet)
    except ValueError as e:
        raise errors.UserError(f"configuration: network.subnet: {e}") from e


def _fetch_all(spec: JobSpec, fetch: Fetch) -> dict[str, Image]:
    """Fetch every container's image, each distinct wish once, in the order of the job."""
    found: dict[tuple[object, ...], Image] = {}
    images = {}
    for asked in (*spec.services, *spec.containers):
        wish = (asked.image, asked.pull_policy, asked.platform)
        if wish not in found:
            found[wish] = fetch(asked)
        images[asked.name] = found[wish]
    return images


def _plan(
    spec: JobSpec,
    around: Surroundings,
    current: JobState,
    *,
    images: dict[str, Image],
    lowers: dict[str, tuple[str, ...]],
    container_map: IdMap,
) -> furnish.Plan:
    """Lay down, without doing it, what the job's namespaces will hold."""
    addresses = _addresses(spec, around.settings)
    endpoints = _endpoints(spec, addresses)
    containers = []
    for asked in (*spec.containers, *spec.services):
        volumes = tuple(_volume(around.store, current, wish) for wish in asked.volumes)
        containers.append(
            furnish.Container(
                asked=asked,
                image=images[asked.name],
                lowers=lowers[asked.name],
                directory=around.store.container(spec.key, asked.name),
                volumes=volumes,
                made_volumes=tuple(v.source for v, wish in zip(volumes, asked.volumes, strict=True) if wish.kind != "bind"),
                endpoint=endpoints[asked.name],
            )
        )
    return furnish.Plan(
        containers=tuple(containers),
        endpoints=tuple(dict.fromkeys(endpoints.values())),
        addresses=addresses,
        mtu=around.settings.network.mtu or netlink.default_route_mtu(),
        resolv_conf=uplink.resolv_conf(addresses, around.settings.network.dns) if addresses else "",
        extra_hosts=spec.extra_hosts,
        inner_map=userns.relative(container_map, current.build_user.keeper_map(around.account)),
        filters=around.store.seccomp,
    )


def _endpoints(spec: JobSpec, addresses: network.Addresses | None) -> dict[str, furnish.Endpoint]:
    """Give the job's own containers one endpoint, since they run in turn, and every service one of its own."""

    def make(name: str, index: int, hostname: str, names: tuple[str, ...]) -> furnish.Endpoint:
        return furnish.Endpoint(name, index, hostname, addresses.endpoint(index) if addresses else "", tuple(dict.fromkeys(names)))

    hostname = next((c.hostname for c in spec.containers if c.hostname), "job")
    names = tuple(alias for c in spec.containers for alias in c.aliases)
    job = make(furnish.JOB_ENDPOINT, 0, hostname, (hostname, *names))
    found = {container.name: job for container in spec.containers}
    for index, service in enumerate(spec.services, start=1):
        own = service.hostname or (service.aliases[0] if service.aliases else service.name)
        found[service.name] = make(service.name, index, own, (*service.aliases, own))
    return found


def _volume(store: paths.Store, current: JobState, wish: VolumeSpec) -> Volume:
    if wish.kind == "bind":
        return Volume(wish.source, wish.target, wish.read_only)
    if wish.kind == "job":
        return Volume(store.job_volume(current.key, wish.source), wish.target, wish.read_only)
    return Volume(store.build_user_volume(current.build_user.name, current.slot, wish.source), wish.target, wish.read_only)


def _record(current: JobState, plan: furnish.Plan, users: dict[str, list[int]]) -> JobState:
    containers = {}
    for container in plan.containers:
        entrypoint, command = furnish.entrypoint_and_command(container.asked, container.image.config)
        containers[container.asked.name] = ContainerState(
            name=container.asked.name,
            is_service=container.endpoint.name != furnish.JOB_ENDPOINT,
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

"""Making a job: lease, keeper, images, roots, network, services; all of it or nothing.

Until `prepare` returns, the keeper ends with this process, and the job's lock says that it is being made; so a crash leaves only
directories, which the next `gc.reap` removes.
"""

from __future__ import annotations

import os

from runner import errors, paths
from runner.image import reference
from runner.job import keeper_start, state
from runner.job.endpoint import JOB, Endpoint
from runner.job.state import JobState
from runner.job.undo import Undo
from runner.kernel import files, locks
from runner.model import Account, BuildUser, ContainerSpec, IdMap, Image, JobSpec
from runner.sandbox import build_users, egress, network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runner.job.surroundings import Surroundings

    Fetch = Callable[[ContainerSpec, IdMap], Image]

_LONGEST_HOSTNAME = 64  # what uname(2) has room for


def prepare(
    spec: JobSpec,
    around: Surroundings,
    *,
    fetch: Fetch,
    facts: dict[str, Any],
    lasting: bool = True,
    furnished: Callable[[JobState], object] | None = None,
) -> JobState:
    """Make the job that `spec` asks for and return its state; services have been started, not waited for.

    `fetch` returns the stored image of a container with an id map, pulling it where its policy says so, while the keeper is being made.
    `lasting` lets the job outlive this process; without it the job ends with it. `furnished` is called when containers could be created,
    while the network is still being made.
    Raises RunnerErrors and then leaves nothing behind.
    """
    store = around.store
    _refuse_odd_names(spec)
    with Undo() as undo:
        lock = _take_key(store, spec.key, undo)
        undo.add(lambda: files.remove_tree(store.job_lock(spec.key)))
        _sign(lock, spec.build_user)
        user = _lease(store, around.account, spec.build_user)
        container_map = user.isolated_map()
        if spec.shared_id is not None:
            container_map = user.shared_map(around.account, container_id=spec.shared_id, container_gid=spec.shared_gid)
        addresses = None if spec.network == "none" else network.addresses(around.settings.network.subnet)
        endpoint = _endpoint(spec, addresses)
        starting = keeper_start.start(
            keeper_start.Request(
                name=spec.key,
                keeper_map=user.keeper_map(around.account),
                container_map=container_map,
                addresses=addresses,
                mtu=around.mtu(),
                endpoint=endpoint,
                egress=egress.policy(around.settings.network.egress) if addresses else egress.Policy(),
                marks=spec.marks,
                publishes=spec.publishes,
            )
        )
        undo.add(starting.close)
        from runner.job import assembly  # loaded while another process makes the keeper: half of the time that it needs

        current = assembly.assemble(
            spec, around, starting, undo,
            user=user, container_map=container_map, endpoint=endpoint, addresses=addresses, fetch=fetch, facts=facts,
            furnished=furnished,
        )  # fmt: skip
        if lasting:
            starting.commit()
            os.close(lock)  # from here on the keeper says that the job is alive; without one, this process does
        undo.keep()
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


def _sign(lock: int, build_user: str) -> None:
    """Write into the job's lock whose it is, for job.leases; without a name no lease ends while the job is being made."""
    try:
        os.pwrite(lock, f"{build_user}\n".encode(), 0)
    except OSError:  # a full disk, of which who cannot do without it will tell
        os.ftruncate(lock, 0)


def _lease(store: paths.Store, account: Account, name: str) -> BuildUser:
    """Lease a slice; when none is free, after giving back those that nobody needs any more."""
    try:
        return build_users.lease(store, account, name)
    except build_users.NoneFree:
        from runner.job import leases  # only for those who are short of ids

        if not leases.release_idle(store, account):
            raise
    return build_users.lease(store, account, name)


def _take_key(store: paths.Store, key: str, undo: Undo) -> int:
    """Take the job's lock and return its descriptor; InfraError if the job exists already."""
    fd = locks.try_take(store.job_lock(key))
    if fd is None:
        raise errors.InfraError(f"job {key} is being prepared or ended by another process", "wait for it, or end that process")
    undo.add(lambda: os.close(fd))
    existing = state.load(store, key)
    if existing and existing.keeper.pid and existing.keeper.is_alive():
        raise errors.InfraError(
            f"job {key} is already running (keeper: process {existing.keeper.pid})", "a job id runs once at a time: end it first"
        )
    return fd


def _endpoint(spec: JobSpec, addresses: network.Addresses | None) -> Endpoint:
    """Return the endpoint of the job's own containers."""
    hostname = next((container.hostname for container in spec.containers if container.hostname), "job")
    docker = (spec.docker.container,) if spec.docker else ()  # its engine shares the endpoint
    names = (hostname, *(alias for container in (*spec.containers, *docker) for alias in container.aliases))
    return Endpoint(JOB, 0, hostname, addresses.endpoint(0) if addresses else "", tuple(dict.fromkeys(names)))

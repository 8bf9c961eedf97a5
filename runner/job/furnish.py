"""Inside a new job: its endpoints, roots, volumes and bundles. Runs as root of the keeper's namespaces; in its network and PID
namespace only where there are services."""

from __future__ import annotations

import os
from binascii import b2a_base64

from runner import errors, paths
from runner.job.endpoint import JOB, Endpoint, Inhabitant
from runner.kernel import files, netlink
from runner.model import ContainerSpec, IdMap, Image, ImageConfig, Step, Volume
from runner.record import NamedTuple
from runner.sandbox import capabilities, crun, network, rootfs, seccomp, spec, toolbox, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner.config import Security

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INIT = "/usr/bin/tini-static"


class Container(NamedTuple):
    """A container that is about to be furnished: what was asked, what its image is, and where its parts lie."""

    asked: ContainerSpec
    image: Image
    lowers: tuple[str, ...]  # empty for the toolbox
    directory: str  # upper and work
    volumes: tuple[Volume, ...]
    made_volumes: tuple[str, ...]  # sources among them that are ours to make
    endpoint: Endpoint
    shown: tuple[Volume, ...] = ()  # things of RUN itself, which its ids can reach; some are made later


class Plan(NamedTuple):
    """Everything that `run` needs to know."""

    containers: tuple[Container, ...]
    endpoints: tuple[Endpoint, ...]
    addresses: network.Addresses | None
    mtu: int
    resolv_conf: str  # "" without a network
    extra_hosts: tuple[tuple[str, str], ...]
    inner_map: IdMap  # container ids to the keeper's ids
    filters: str  # directory of compiled seccomp filters
    security: Security  # what containers may do beyond the usual
    docker: bool = False  # the job has an API of Docker's


def run(plan: Plan) -> dict[str, list[int]]:
    """Carry out the plan and return each container's user as [uid, gid].

    Raises RunnerErrors; what it made goes away with the keeper and the job's directory.
    """
    owner = (rootfs.owner_of_root(plan.inner_map.uids), rootfs.owner_of_root(plan.inner_map.gids))
    os.mkdir(os.path.dirname(crun.PROGRAM), 0o755)
    rootfs.bind(crun.program(), crun.PROGRAM, read_only=True)
    if plan.docker:
        for path in (paths.DOCKER, paths.DOCKER_TLS):
            os.makedirs(path, 0o755, exist_ok=True)  # job.docker may have come first
    services = [endpoint for endpoint in plan.endpoints if endpoint.name != JOB]  # that one came with the keeper
    inhabitants = [Inhabitant(endpoint, plan.addresses) for endpoint in services]
    ip = netlink.start_ip() if plan.addresses and services else None
    made = _furnish_containers(plan, owner=owner)
    for inhabitant in inhabitants:
        inhabitant.pin()
    if ip:
        wires = zip(services, inhabitants, strict=True)
        netlink.finish_ip(ip, [network.attach_command(end.number, pid=inhabitant.pid, mtu=plan.mtu) for end, inhabitant in wires])
    for inhabitant in inhabitants:
        inhabitant.configure()
    for inhabitant in inhabitants:
        inhabitant.finish()
    return made


def join(plan: Plan) -> None:
    """Furnish the one container of a plan in a job that stands, in an endpoint and with ids of its own. Raises RunnerErrors."""
    endpoint = plan.endpoints[0]
    owner = (rootfs.owner_of_root(plan.inner_map.uids), rootfs.owner_of_root(plan.inner_map.gids))
    inhabitant = Inhabitant(endpoint, plan.addresses, plan.inner_map)
    ip = netlink.start_ip()
    inhabitant.pin()
    netlink.finish_ip(ip, [network.attach_command(endpoint.number, pid=inhabitant.pid, mtu=plan.mtu)])
    inhabitant.configure()
    _furnish_containers(plan, owner=owner, user_namespace=paths.namespace("user", endpoint.name))
    inhabitant.finish()


def add(plan: Plan) -> dict[str, list[int]]:
    """Furnish further containers of a job that stands, in endpoints that it has; return their users like `run`. Raises RunnerErrors."""
    owner = (rootfs.owner_of_root(plan.inner_map.uids), rootfs.owner_of_root(plan.inner_map.gids))
    return _furnish_containers(plan, owner=owner)


def _furnish_containers(plan: Plan, *, owner: tuple[int, int], user_namespace: str = paths.USER_NAMESPACE) -> dict[str, list[int]]:
    for path in dict.fromkeys(path for container in plan.containers for path in container.made_volumes):
        make_volume(path, owner=owner)
    if any(not container.lowers for container in plan.containers) and not os.path.isdir(f"{paths.RUN}/toolbox"):
        toolbox.furnish(f"{paths.RUN}/toolbox", owner=owner)
    hosts = network.hosts(
        [(e.ip or "127.0.1.1", e.names) for e in plan.endpoints] + [(address, (name,)) for name, address in plan.extra_hosts]
    )
    return {
        container.asked.name: _furnish_container(plan, container, hosts=hosts, owner=owner, user_namespace=user_namespace)
        for container in plan.containers
    }


def bundle(container: str) -> str:
    """Name the directory of a container's bundle inside the job."""
    return f"{paths.RUN}/c/{container}"


def _furnish_container(plan: Plan, container: Container, *, hosts: str, owner: tuple[int, int], user_namespace: str) -> list[int]:
    asked, config = container.asked, container.image.config
    home = bundle(asked.name)
    os.mkdir(home, 0o755)
    overlay = rootfs.Overlay(container.lowers or (f"{paths.RUN}/toolbox",), container.directory, f"{home}/root")
    rootfs.mount(overlay, owner=owner)
    mounts = [
        *_identity_files(plan, container, hosts=hosts, owner=owner),
        *_volumes(container),
        *_secrets(container, owner=owner),
        *container.shown,
    ]
    root = os.open(overlay.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rootfs.check(root)
        if asked.files:
            _write_files(container, overlay.target, root=root, owner=owner)
        for mount in mounts:
            rootfs.make_mount_point(root, mount.target, directory=os.path.isdir(mount.source), owner=owner)
        user = users.resolve(asked.user or config.user, root=root)
        cwd = asked.working_dir or config.working_dir or "/"
        if not cwd.startswith("/"):
            raise errors.UserError(f"working directory {cwd} is not an absolute path", "begin it with a slash")
        if os.path.normpath(f"/{cwd.lstrip('/')}").startswith("/proc/"):  # descriptors of the runtime may lead out (CVE-2024-21626)
            raise errors.UserError(f"working directory {cwd} is in /proc, where no container may start", "choose another one with -w")
        rootfs.make_mount_point(root, cwd, directory=True, owner=owner)
    finally:
        os.close(root)
    step = Step(
        argv=command(asked, config), env=_environment(asked, config, home=user.home), cwd=cwd, user=user, umask=asked.umask
    )  # fmt: skip
    if not container.lowers:
        mounts += toolbox.volumes()
    _write_spec(plan, container, step=step, volumes=mounts, user_namespace=user_namespace)
    return [user.uid, user.gid]


def _write_spec(plan: Plan, container: Container, *, step: Step, volumes: list[Volume], user_namespace: str) -> None:
    """Write the container's spec; the first container on this machine also leaves the compiled seccomp filter for all later ones."""
    home = bundle(container.asked.name)
    allowed = capabilities.ALL if container.asked.nested else container.asked.capabilities or capabilities.DEFAULT
    # what makes containers needs nearly all of what is closed to those that it makes no engine for
    closed = () if container.asked.engine else tuple(group for group in seccomp.CLOSED if group not in plan.security.open)
    cached = f"{plan.filters}/{seccomp.compiled_name(allowed, closed=closed, crun=crun.program())}.bpf"
    rlimits = () if plan.security.core_dumps else (("RLIMIT_CORE", 0, 0),)  # a core has every secret of its process
    pinned = {kind: paths.namespace(short, container.endpoint.name) for kind, short in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))}

    def build(profile: dict[str, Any], program: str = "", *, joined: Mapping[str, str] = pinned, one: Step = step) -> dict[str, Any]:
        return spec.build(
            root=f"{home}/root", namespaces={"user": user_namespace, **joined}, step=one, volumes=volumes,
            capabilities=allowed, init=_INIT if container.asked.init else "", seccomp=profile, filter_program=program,
            nested=container.asked.nested, shm_size=container.asked.shm_size or spec.SHM_SIZE, rlimits=rlimits,
        )  # fmt: skip

    try:
        program = files.read(cached).decode()
    except FileNotFoundError:
        # with other namespaces than the container's, which are not pinned yet, and a program that every image has: it is not started
        rules = seccomp.load(allowed, closed=closed)
        some = step._replace(argv=("/proc/self/exe",), user=step.user._replace(uid=0, gid=0))
        files.write_json(f"{home}/config.json", build(rules, joined=dict.fromkeys(pinned, ""), one=some), durable=False)
        program = b2a_base64(crun.compile_filter(home, f"filter-{container.asked.name}"), newline=False).decode()
        if program:
            files.write_atomic(cached, program.encode())
    profile = {} if program else seccomp.load(allowed, closed=closed)
    files.write_json(f"{home}/base.json", build(profile, program), durable=False)


def command(asked: ContainerSpec, config: ImageConfig) -> tuple[str, ...]:
    """Return entrypoint and command as docker combines them: a new entrypoint drops the image's command."""
    entrypoint, arguments = entrypoint_and_command(asked, config)
    return entrypoint + arguments


def entrypoint_and_command(asked: ContainerSpec, config: ImageConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return both halves; an entrypoint of [""] means none (docker run --entrypoint "")."""
    entrypoint = config.entrypoint if asked.entrypoint is None else asked.entrypoint
    if entrypoint == ("",):
        entrypoint = ()
    if asked.command is not None:
        return entrypoint, asked.command
    return entrypoint, config.cmd if asked.entrypoint is None else ()


def _environment(asked: ContainerSpec, config: ImageConfig, *, home: str) -> tuple[tuple[str, str], ...]:
    """Return the environment as docker makes it: PATH, HOSTNAME and HOME unless somebody says otherwise, the image's, then the caller's."""
    merged = {"PATH": _PATH}
    if asked.hostname:
        merged["HOSTNAME"] = asked.hostname
    merged.update(config.env)
    merged.update(asked.env)
    merged.setdefault("HOME", home)
    return tuple(merged.items())


def _identity_files(plan: Plan, container: Container, *, hosts: str, owner: tuple[int, int]) -> list[Volume]:
    directory = f"{bundle(container.asked.name)}/etc"
    os.mkdir(directory, 0o755)
    texts = {"hosts": hosts, "hostname": f"{container.endpoint.hostname}\n"}
    if plan.resolv_conf:
        texts["resolv.conf"] = plan.resolv_conf
    for name, text in texts.items():
        rootfs.write_owned(f"{directory}/{name}", text, owner=owner)
    return [Volume(f"{directory}/{name}", f"/etc/{name}") for name in texts]


def _volumes(container: Container) -> list[Volume]:
    """Bind every volume into the bundle first: the container's ids cannot traverse the account's private directories."""
    bound = []
    for number, volume in enumerate(container.volumes):
        place = f"{bundle(container.asked.name)}/m{number}"
        # what is not ours to make is the host's, by its real path; a job may be renaming directories on the way there right now
        rootfs.bind(volume.source, place, read_only=volume.read_only, strictly=volume.source not in container.made_volumes)
        if volume.read_only and container.asked.nested:
            rootfs.lock(place)  # its root may mount, and could take back what it was given to read
        bound.append(Volume(place, volume.target, volume.read_only))
    return bound


def _write_files(container: Container, target: str, *, root: int, owner: tuple[int, int]) -> None:
    """Write what the container begins with into its mounted root. Its paths are followed as they are: the toolbox has no traps."""
    if container.lowers:
        raise errors.Bug(f"files for container {container.asked.name} of {container.asked.image}: they are for the toolbox only")
    for path, text in container.asked.files:
        rootfs.make_mount_point(root, path, directory=False, owner=owner)
        with open(f"{target}{path}", "w", encoding="utf-8") as file:
            file.write(text)
        if text.startswith("#!"):
            os.chmod(f"{target}{path}", 0o755)


def _secrets(container: Container, *, owner: tuple[int, int]) -> list[Volume]:
    """Write secrets into the bundle, which no disk ever sees, and bind them from there. The account is root here."""
    asked, bound = container.asked, []
    wanted = [(path, content, 0o600, owner) for path, content in asked.secrets]
    wanted += [(path, content, mode, (0, 0)) for path, content, mode in asked.own_files]
    for number, (path, content, mode, whose) in enumerate(wanted):
        place = f"{bundle(asked.name)}/s{number}"
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
        os.chown(place, *whose)
        bound.append(Volume(place, path, read_only=True))
    return bound


def make_volume(path: str, *, owner: tuple[int, int]) -> None:
    """Make the directory of a volume, writable for every user of the container as docker's cache volumes are. Idempotent."""
    make_parents(path)
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, 0o777)
    os.chown(path, *owner)


def make_parents(path: str) -> None:
    """Make the directories above `path`, for the account only. Idempotent."""
    parents = []
    directory = os.path.dirname(path)
    while not os.path.isdir(directory):
        parents.append(directory)
        directory = os.path.dirname(directory)
    for parent in reversed(parents):
        files.make_directory(parent)

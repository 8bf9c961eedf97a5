"""What a job's Docker API is made of: which engine of the host, over which storage, with which of our settings."""

from __future__ import annotations

import os

from runner import errors
from runner.job.docker import CONTAINER, FIRST_LISTENER
from runner.kernel import files, process
from runner.model import ContainerSpec, DockerSpec, VolumeSpec
from runner.sandbox import engine, engine_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.image import auth
    from runner.job.surroundings import Surroundings
    from runner.model import Limits

_FRONT = f"{os.path.dirname(engine.__file__)}/engine_front.py"
_AUTH_FILE = "/root/.docker/config.json"  # podman falls back on it (containers-auth.json(5))
HOST = "docker"  # the name by which clients expect it (docker:dind as a service)
_SHARED = ("/certs/client",)  # what configurations for DinD list as a volume of both sides: it is ours to fill


def make(
    around: Surroundings,
    *,
    volumes: tuple[VolumeSpec, ...],
    names: tuple[str, ...] = (),
    certificates: str = "",
    protected: bool = False,
    shared_id: int | None = None,
    limits: Limits,
    keychain: auth.Keychain | None = None,
) -> DockerSpec:
    """Return the API that a job gets. InfraError when the configured engine is not installed.

    The sidecar has the job's `volumes` at the same paths; `names` are further names of its host. `certificates` is where the job's
    containers find the client's, "" for no TLS. `shared_id` is the job's. What protected refs build is kept apart. `keychain`
    is for what podman itself pulls; dockerd asks its clients.
    """
    chosen = choose(around.settings.docker.engine)
    mtu = around.mtu()
    front = engine.front(chosen, first_listener=FIRST_LISTENER, tls=bool(certificates), program=files.read(_FRONT).decode())
    written = engine_files.containers_files if chosen == engine.PODMAN else engine_files.docker_files
    own = written(around.settings, certificates=engine_files.authorities(around.settings), mtu=mtu)
    kept = _storage(chosen, protected=protected, shared_id=shared_id)
    storage = [VolumeSpec(engine.STORAGE[chosen], "storage", kept)]
    if chosen == engine.PODMAN:
        storage.append(VolumeSpec(engine_files.CACHE_MOUNTS, "storage", f"{kept}-cache"))
    taken = {*_SHARED, *(volume.target for volume in storage)}
    container = ContainerSpec(
        name=CONTAINER,
        image="toolbox",
        entrypoint=(),
        command=front.command,
        user="0:0",
        hostname=HOST,
        aliases=tuple(dict.fromkeys((HOST, *names))),
        volumes=(*storage, *(volume for volume in volumes if volume.target not in taken)),
        limits=limits,
        init=True,
        nested=True,
        engine=True,
        files=(*front.files, *own),
        secrets=_secrets(keychain) if keychain and chosen == engine.PODMAN else (),
    )
    return DockerSpec(container, certificates)


def _secrets(keychain: auth.Keychain) -> tuple[tuple[str, bytes], ...]:
    logins = [engine_files.Login(path, one.username, one.password, one.identity_token) for path, one in keychain.all()]
    return ((_AUTH_FILE, engine_files.auth_file(logins).encode()),) if logins else ()


def _storage(chosen: str, *, protected: bool, shared_id: int | None) -> str:
    """Name what an engine keeps: under another id map its files have other owners, and what protected refs use nobody else writes to."""
    return f"{chosen}{'' if shared_id is None else f'-a{shared_id}'}{'-protected' if protected else ''}"


def choose(wanted: str) -> str:
    """Return the engine that serves: the configured one, or for "auto" dockerd where the host has it, else podman."""
    if wanted == "auto":
        wanted = engine.DOCKERD if _is_installed("dockerd") and _is_installed("containerd") else engine.PODMAN
    if not _is_installed(wanted):
        package = {engine.PODMAN: "podman netavark aardvark-dns", engine.DOCKERD: "docker.io"}[wanted]
        raise errors.InfraError(f"jobs cannot have a Docker API: {wanted} is not installed", f"apt-get install {package}")
    return wanted


def engine_of(asked: DockerSpec) -> str:
    """Return the engine that serves an API."""
    return next(name for name, path in engine.STORAGE.items() if asked.container.volumes[0].target == path)


def environment(asked: DockerSpec, job_variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what tells a job's Docker clients where the API is, as far as the job does not say so itself."""
    found: dict[str, str] = {}
    if "DOCKER_HOST" not in job_variables:
        found["DOCKER_HOST"] = f"tcp://{HOST}:{engine.TLS_PORT if asked.certificates else engine.PORT}"
        if asked.certificates:
            found["DOCKER_TLS_VERIFY"], found["DOCKER_CERT_PATH"] = "1", asked.certificates
    if engine_of(asked) == engine.PODMAN and "DOCKER_BUILDKIT" not in job_variables:
        found["DOCKER_BUILDKIT"] = "0"
    return tuple((name, value) for name, value in found.items() if name not in job_variables)


def _is_installed(program: str) -> bool:
    try:
        process.find(program)
    except FileNotFoundError:
        return False
    return True

"""Docker-in-Docker services: recognised, and replaced by the job's own Docker API."""

from __future__ import annotations

from runner import log
from runner.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.adapters.gitlab.services import Service
    from runner.image import auth
    from runner.job.surroundings import Surroundings
    from runner.model import DockerSpec, VolumeSpec

_DEFAULT_CERTIFICATES = "/certs"  # as docker's own images have it


def is_dind(image: str) -> bool:
    """Tell whether an image is docker's own dind, of any registry and with any tag of it: docker:dind, mirror/docker:27.1-dind-rootless."""
    repository, _, tag = image.partition("@")[0].rpartition(":")
    return repository.rpartition("/")[2] == "docker" and "/" not in tag and "dind" in tag.split("-")


def plan(
    services: Sequence[Service],
    around: Surroundings,
    job_variables: Mapping[str, str],
    *,
    volumes: tuple[VolumeSpec, ...],
    protected: bool,
    keychain: auth.Keychain,
) -> DockerSpec | None:
    """Return the API that a job gets for its dind `services`, or anyway where the configuration provides it; None for none.

    UserError where it is off and the job has such a service.
    """
    mode = around.settings.docker.mode
    if mode == "off" and services:
        raise UserError(
            f"service {services[0].asked.name!r} is not started: Docker-in-Docker needs privileges, and this runner has no other API",
            "docker: replace in its configuration gives them one without privileges",
        )
    if mode == "off" or not (services or mode == "provide"):
        return None
    from runner.job import docker_spec  # for jobs that ask for it

    asked = docker_spec.make(
        around,
        volumes=volumes,
        names=tuple(name for service in services for name in service.aliases),
        certificates=_certificates(services, job_variables),
        protected=protected,
        limits=around.settings.limits,
        keychain=keychain,
    )
    for service in services:
        log.say(
            f"Service {service.asked.name} is replaced by a Docker API of the job's own, which needs no privileges and starts when it is "
            f"first used ({docker_spec.engine_of(asked)})"
        )
        flags = [word for word in service.asked.command or () if word not in ("dockerd", "--tls=false", "--tlsverify=false")]
        if flags:
            log.warn(f"Flags of service {service.asked.name} have no effect: {' '.join(flags)}")
    return asked


def environment(asked: DockerSpec | None, job_variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that the job's own container gets besides the job's."""
    if asked is None:
        return ()
    from runner.job import docker_spec

    return docker_spec.environment(asked, job_variables)


def _certificates(services: Sequence[Service], job_variables: Mapping[str, str]) -> str:
    """Return the directory in which the job expects a client's certificates, "" if it does without TLS.

    It says so by DOCKER_TLS_CERTDIR, its own or the service's, or by an address that means TLS.
    """
    of_services = {variable.key: variable.value for service in services for variable in service.asked.variables}
    directory = {**of_services, **job_variables}.get("DOCKER_TLS_CERTDIR")
    wants_tls = job_variables.get("DOCKER_HOST", "").endswith(":2376") or job_variables.get("DOCKER_TLS_VERIFY", "") not in ("", "0")
    if directory is None and wants_tls:
        return job_variables.get("DOCKER_CERT_PATH", "") or f"{_DEFAULT_CERTIFICATES}/client"
    if not directory:
        return ""
    if not directory.startswith("/"):
        raise UserError(f"DOCKER_TLS_CERTDIR is no absolute path: {directory[:80]!r}", 'use "/certs", or "" for no TLS')
    return f"{directory.rstrip('/')}/client"

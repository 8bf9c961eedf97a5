"""A job that needs Docker: a `docker` service, or the configuration, gives its container an API of its own."""

from __future__ import annotations

from runner.adapters.github import says
from runner.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.adapters.github.message import Container
    from runner.job.surroundings import Surroundings
    from runner.model import ContainerSpec, DockerSpec


def is_dind(image: str) -> bool:
    """Tell whether an image is docker's own engine: docker:dind, docker:27-dind-rootless, and `docker` alone, as a service."""
    repository, _, tag = image.partition("@")[0].rpartition(":")
    if not repository or "/" in tag:
        repository, tag = image, ""
    last = repository.rpartition("/")[2]
    return last == "docker" and (not tag or "dind" in tag.split("-") or "/" not in repository)


def plan(
    services: Sequence[tuple[Container, tuple[str, ...]]], around: Surroundings, *, job: ContainerSpec | None, shared_id: int
) -> DockerSpec | None:
    """Return the API of a job with a container; None for none. UserError where it is off and the job asks for it."""
    mode = around.settings.docker.mode
    if mode == "off" and services:
        raise UserError(
            f"service {services[0][0].image!r} is not started: Docker-in-Docker needs privileges, and this runner has no other API",
            "docker: replace in its configuration gives jobs one without privileges",
        )
    if job is None or mode == "off" or not (services or mode == "provide"):
        return None
    from runner.job import docker_spec  # for jobs that ask for it

    names = tuple(name for _, called in services for name in called)
    found = docker_spec.make(around, volumes=job.volumes, names=names, shared_id=shared_id, limits=around.settings.limits)
    for service, _ in services:
        says.line(f"Service {service.image} is replaced by a Docker API of the job's own ({docker_spec.engine_of(found)})")
    return found


def environment(asked: DockerSpec, job: ContainerSpec) -> tuple[tuple[str, str], ...]:
    """Return the variables that tell the job's clients where the API is."""
    from runner.job import docker_spec

    return docker_spec.environment(asked, dict(job.env))

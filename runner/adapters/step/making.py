"""The first step of a job: the container that all later ones share, and the services beside it."""

from __future__ import annotations

import os
import sys
import zlib

from runner import errors, log
from runner.adapters.step import run
from runner.image import layers
from runner.job import cleanup, gc_background, oneoff, prepare
from runner.kernel import signals
from runner.model import ContainerSpec, JobSpec
from runner.sandbox import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from runner.adapters.step.asked import Asked
    from runner.job.state import JobState
    from runner.job.surroundings import Surroundings
    from runner.model import DockerSpec, IdMap, Image, VolumeSpec

_HEALTH_TIMEOUT_S = 60.0
_MARK = "RUNNER_TRACKING_ID"


class _OtherUserError(Exception):
    """The image's user is not the one for whom the job is being made."""

    def __init__(self, uid: int) -> None:
        self.uid = uid


def make(
    asked: Asked,
    around: Surroundings,
    environ: Mapping[str, str],
    *,
    key: str,
    worker: tuple[int, int],
    volumes: tuple[VolumeSpec, ...],
    lost: bool,
) -> JobState:
    """Make the container of a job's steps and start its services, or leave nothing. `lost`: there was one, and its keeper has ended.

    Raises RunnerErrors.
    """
    # the runner's two ways to cancel; whoever started it may have had SIGINT ignored
    for number in (signals.SIGINT, signals.SIGTERM):
        signals.signal(number, _interrupted)
    if lost:
        log.warn("the container of the earlier steps has gone, and with it all that they did not write to the workspace")
        cleanup.cleanup(around.store, key, around.account)
    if worker == (0, 0):
        log.warn("the runner's worker is out of sight: nothing ends this job's container but `dockless step --end`")
    gc_background.start_if_full(around)
    image = asked.image or around.settings.images.default
    asked = asked._replace(image=image)
    uid = _user_of_stored(asked, around)
    try:
        current = _prepare(asked, around, environ, key=key, worker=worker, volumes=volumes, uid=uid)
    except _OtherUserError as e:
        # found out only now, since the image had to be fetched first: what it has pulled is there for the second try
        log.debug(f"image {image} runs as {e.uid}: the job is made again")
        again = asked._replace(pull="if-not-present" if asked.pull == "always" else asked.pull)
        current = _prepare(again, around, environ, key=key, worker=worker, volumes=volumes, uid=e.uid)
    if asked.services:
        try:
            _wait_for_services(current, around)
        except BaseException:
            cleanup.cleanup(around.store, key, around.account)
            raise
    return current


def _interrupted(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _prepare(
    asked: Asked,
    around: Surroundings,
    environ: Mapping[str, str],
    *,
    key: str,
    worker: tuple[int, int],
    volumes: tuple[VolumeSpec, ...],
    uid: int,
) -> JobState:
    def fetch(container: ContainerSpec, id_map: IdMap) -> Image:
        image = oneoff.fetch(container, around, id_map)
        if container.name == run.CONTAINER:
            found = _user_of(image, asked, around, id_map)
            if found != uid:
                raise _OtherUserError(found)
        return image

    spec = plan(asked, around, environ, key=key, worker=worker, volumes=volumes, uid=uid)
    return prepare.prepare(spec, around, fetch=fetch, facts={})


def plan(
    asked: Asked,
    around: Surroundings,
    environ: Mapping[str, str],
    *,
    key: str,
    worker: tuple[int, int],
    volumes: tuple[VolumeSpec, ...],
    uid: int,
) -> JobSpec:
    """Return the job of a container whose user `uid` is the runner's account outside, so that all files of the workspace are its own."""
    api, api_env = _docker(asked, around, volumes, uid) if asked.docker else (None, ())
    policy = (asked.pull or "if-not-present",)
    hostname = asked.hostname or key[-12:]
    container = ContainerSpec(
        name=run.CONTAINER,
        image=asked.image,
        pull_policy=policy,
        platform=asked.platform,
        entrypoint=(),  # as in a job's container, whose steps the runner starts without it
        command=(),
        env=api_env,
        user=asked.user,
        hostname=hostname,
        aliases=(hostname,),
        volumes=volumes,
        limits=asked.limits,
        init=asked.init,
    )
    services = tuple(
        ContainerSpec(
            name=f"service-{number}",
            image=service.image,
            pull_policy=policy,
            env=asked.service_env,
            hostname=service.alias,
            aliases=(service.alias,),
            limits=around.settings.service_limits,
        )
        for number, service in enumerate(asked.services)
    )
    return JobSpec(
        key=key,
        build_user=asked.build_user or trust_domain(environ),
        containers=(container,),
        services=services,
        network=asked.network or "default",
        docker=api,
        shared_id=uid,
        # the runner kills at the end of a job whatever has its mark, which spares the container the wait for the next `gc`
        marks=((_MARK, environ[_MARK]),) if environ.get(_MARK) else (),
        owner=worker,
    )


def trust_domain(environ: Mapping[str, str]) -> str:
    """Name the build user of a job: jobs of one repository share one."""
    server = environ.get("GITHUB_SERVER_URL", "").rstrip("/").lower()
    number = environ.get("GITHUB_REPOSITORY_ID", "")
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        name = environ.get("GITHUB_REPOSITORY", "").lower().encode("utf-8", "surrogateescape")
        number = f"{zlib.crc32(name):08x}{zlib.crc32(name[::-1]):08x}"
    return f"github-{zlib.crc32(server.encode('utf-8', 'surrogateescape')):08x}-repository-{number}"


def _docker(
    asked: Asked, around: Surroundings, volumes: tuple[VolumeSpec, ...], uid: int
) -> tuple[DockerSpec, tuple[tuple[str, str], ...]]:
    from runner.job import docker_spec

    if around.settings.docker.mode == "off":
        raise errors.UserError("step: the configuration permits no Docker API", "docker: replace in it permits --docker")
    api = docker_spec.make(around, volumes=volumes, shared_id=uid, limits=asked.limits)
    return api, docker_spec.environment(api, {})


def _user_of_stored(asked: Asked, around: Surroundings) -> int:
    """Guess whose container it will be before its image is there for sure; most are root's."""
    from runner.image import images

    stored = None if asked.user else images.find(around.store, asked.image, platform=asked.platform)
    return _number(asked.user or (stored.config.user if stored else "")) or 0


def _user_of(image: Image, asked: Asked, around: Surroundings, id_map: IdMap) -> int:
    """Return the id of the container's user, which the image's /etc/passwd may have to tell; 0 where it does not."""
    user = asked.user or image.config.user
    number = _number(user)
    if number is not None or not user or not image.layers:
        return number or 0
    return named(layers.lower_directories(image, id_map, store=around.store), user)


def _number(user: str) -> int | None:
    """Return the container id that a user is given by, None if there is nothing or a name."""
    number = user.partition(":")[0]
    return int(number) if number.isascii() and number.isdigit() and int(number) < 65536 else None


def named(lowers: tuple[str, ...], user: str) -> int:
    """Return the id of a user by name in layers, topmost first; 0 where none has it."""
    for lower in lowers:
        if os.path.lexists(f"{lower}/etc/passwd"):
            root = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return users.resolve(user.partition(":")[0], root=root).uid
            except errors.UserError:
                return 0
            finally:
                os.close(root)
    return 0


def _wait_for_services(current: JobState, around: Surroundings) -> None:
    """Wait until each service accepts a connection; one that does not is a warning with its log, and the step goes on."""
    from runner.job import health, services

    ports = {
        name: tuple(int(port.partition("/")[0]) for port in container.exposed_ports if not port.endswith("/udp"))
        for name, container in current.containers.items()
        if container.is_service
    }
    ports = {name: numbers for name, numbers in ports.items() if numbers}
    if ports:
        log.say(f"Waiting for {', '.join(current.container(name).image for name in ports)} to accept connections ...")
    for report in health.wait_healthy(current, ports, timeout_s=_HEALTH_TIMEOUT_S):
        if report.problem:
            image = current.container(report.name).image
            output = services.log_tail(around.store, current.key, report.name).decode(errors="replace")
            log.warn(f"service {image} {report.problem}; what it printed:\n{output}")

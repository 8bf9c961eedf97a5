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
        current, images = _prepare(asked, around, environ, key=key, worker=worker, volumes=volumes, uid=uid)
    except _OtherUserError as e:
        # found out only now, since the image had to be fetched first: what it has pulled is there for the second try
        log.debug(f"image {image} runs as {e.uid}: the job is made again")
        again = asked._replace(pull="if-not-present" if asked.pull == "always" else asked.pull)
        current, images = _prepare(again, around, environ, key=key, worker=worker, volumes=volumes, uid=e.uid)
    if asked.services:
        try:
            _wait_for_services(current, around, images)
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
) -> tuple[JobState, dict[str, Image]]:
    images = {}

    def fetch(container: ContainerSpec, id_map: IdMap) -> Image:
        image = images[container.image] = oneoff.fetch(container, around, id_map)
        if container.name == run.CONTAINER:
            found = _user_of(image, asked, around, id_map)
            if found != uid:
                raise _OtherUserError(found)
        return image

    spec = plan(asked, around, environ, key=key, worker=worker, volumes=volumes, uid=uid)
    return prepare.prepare(spec, around, fetch=fetch, facts={}), images


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
        build_user=asked.build_user or trust_domain(environ, around.settings.github.trust_domain),
        containers=(container,),
        services=services,
        network=asked.network or "default",
        docker=api,
        shared_id=uid,
        # the runner kills at the end of a job whatever has its mark, which spares the container the wait for the next `gc`
        marks=((_MARK, environ[_MARK]),) if environ.get(_MARK) else (),
        owner=worker,
    )


def trust_domain(environ: Mapping[str, str], kind: str) -> str:
    """Name the build user of a job: jobs of one repository, of one owner, or of the whole GitHub share one, as with the container hooks."""
    server = f"github-{zlib.crc32(_raw(environ.get('GITHUB_SERVER_URL', '').rstrip('/').lower())):08x}"
    repository = environ.get("GITHUB_REPOSITORY", "").lower()
    match kind:
        case "owner":
            return f"{server}-owner-{_id(environ.get('GITHUB_REPOSITORY_OWNER_ID', ''), repository.partition('/')[0])}"
        case "runner":
            return server
        case _:
            return f"{server}-repository-{_id(environ.get('GITHUB_REPOSITORY_ID', ''), repository)}"


def _id(number: str, name: str) -> str:
    """Return the number that GitHub gave a thing, or what stands for its name where there is none."""
    if number.isascii() and number.isdigit() and len(number) < 20:
        return number
    return f"{zlib.crc32(_raw(name)):08x}{zlib.crc32(_raw(name)[::-1]):08x}"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


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


def _wait_for_services(current: JobState, around: Surroundings, images: Mapping[str, Image]) -> None:
    """Wait until the services are ready: by the health checks of their images, or where there is none by their ports.

    InfraError, after its log, for one that says that it is not healthy; one whose port stays closed is a warning, and the step goes on.
    """
    from runner.job import health, healthcheck, services

    found = {name: images[container.image].config for name, container in current.containers.items() if container.is_service}
    checks = {name: config.healthcheck for name, config in found.items() if config.healthcheck.test[:1] not in ((), ("NONE",))}
    ports = {
        name: tuple(int(port.partition("/")[0]) for port in config.exposed_ports if not port.endswith("/udp"))
        for name, config in found.items()
        if name not in checks
    }
    ports = {name: numbers for name, numbers in ports.items() if numbers}
    if checks or ports:
        log.say(f"Waiting for {', '.join(current.container(name).aliases[0] for name in (*checks, *ports))} to be ready ...")

    def told(name: str, problem: str) -> str:
        output = services.log_tail(around.store, current.key, name).rstrip()
        return f"service {current.container(name).image} is not ready: {problem}; what it printed:\n{output}"

    for late in health.wait_healthy(current, ports, timeout_s=_HEALTH_TIMEOUT_S) if ports else ():
        if late.problem:
            log.warn(told(late.name, f"it {late.problem}"))
    bad = [report for report in healthcheck.wait(current, checks) if report.problem]
    for report in bad:
        log.warn(told(report.name, report.problem))
    if bad:
        image, words = current.container(bad[0].name).image, " ".join(bad[0].words.split())[:200]
        raise errors.InfraError(f"service {image} cannot be used: {bad[0].problem}", f"the check printed: {words or 'nothing'}")

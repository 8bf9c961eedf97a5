"""`gitlab prepare`: from the job that GitLab sent to a job that stands: policy, images, containers, services."""

from __future__ import annotations

import os
import sys
import zlib

from runner import log
from runner.adapters.gitlab import caller, docker, environment, payload, policy, services, stages, start, volumes
from runner.errors import InfraError
from runner.image import auth, pull
from runner.job import gc_background, state
from runner.job import prepare as job_prepare
from runner.job import services as job_services
from runner.kernel import process, signals
from runner.model import ContainerSpec, JobSpec, VolumeSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from runner.job.state import JobState
    from runner.job.surroundings import Surroundings
    from runner.model import IdMap, Image

_LONGEST_HOST_NAME = 63
_TOOLS = "/run/dockless/bin"  # where the toolbox finds a gitlab-runner that is not below /usr


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Prepare the job whose key `gitlab config` chose. Raises RunnerErrors, and then leaves nothing behind."""
    log.configure(colour=True)
    signals.signal(signals.SIGTERM, _interrupted)
    job = payload.read(environ.get("JOB_RESPONSE_FILE", ""))  # may be readable for root only
    owner = caller.nearest_common(environ.get(environment.CALLER, ""), caller.ancestors())
    around = start.surroundings(environ)
    key = environ.get(environment.JOB, "")
    if not key:
        raise InfraError(
            f"{environment.JOB} is missing", "config_exec has to be `dockless gitlab config`: see `dockless gitlab register-snippet`"
        )
    _refuse_second_start(around, job, key)
    gc_background.start_if_full(around)
    job_variables = environment.variables(environ)
    masked = sorted(job.masked_names())
    log.hide(*(variable.value for variable in job.variables if variable.masked), *environment.values(job_variables, masked))
    log.hide(*(password for _, _, password in job.credentials))
    keychain = auth.Keychain.of_account(around.account.home, _auth_environ(environ, job_variables), payload=job.credentials)
    spec = plan(job, around, job_variables, key=key, keychain=keychain)
    spec = spec._replace(owner=owner)
    log.say(f"Using dockless executor with image {_container(spec, stages.BUILD).image} ...")
    for service in spec.services:
        log.say(f"Starting service {service.image} ...")
    facts = {
        "job": _identity(job),
        "files": sorted(job.file_names()),
        "masked": masked,  # their names: values are never in a record
        "services": {
            service.name: "-".join(service.aliases[:2]) for service in (*spec.services, *((spec.docker.container,) if spec.docker else ()))
        },
    }
    fetched: dict[tuple[str, str], Image] = {}

    def fetch(asked: ContainerSpec, id_map: IdMap) -> Image:
        image = fetched[asked.image, asked.platform] = _fetch(asked, around, keychain, id_map, build_user=spec.build_user)
        return image

    current = job_prepare.prepare(spec, around, fetch=fetch, facts=facts)
    _wait_for_services(current, around, {s.name: (*fetched[s.image, s.platform].config.env, *s.env) for s in spec.services})
    return 0


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # not the job's fault, whatever was going on: exit 1 would be reported as a failed script
    sys.exit(128 + signals.SIGTERM)


def _identity(job: payload.Job) -> str:
    return f"{instance(job)}/{job.project_id}/{job.id}"  # two GitLabs may share a host name, below different paths


def instance(job: payload.Job) -> str:
    """Return a short, stable name of the GitLab that sent the job, from the host in its repository's URL."""
    host = job.repo_url.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()
    return f"{zlib.crc32(host.encode()):08x}"


def _refuse_second_start(around: Surroundings, job: payload.Job, key: str) -> None:
    # whatever a job says of its number, it says it again: only keys that differ in their random part can be the same job's
    for other, is_alive in state.every(around.store, prefix=f"{key.rpartition('-')[0]}-"):
        if is_alive and other.facts.get("job") == _identity(job) and not state.is_orphaned(other):
            raise InfraError(
                f"job {job.id} is already running on this machine (as {other.key})", "a job runs once at a time: cancel the other one first"
            )


def _fetch(asked: ContainerSpec, around: Surroundings, keychain: auth.Keychain, id_map: IdMap, *, build_user: str) -> Image:
    return pull.ensure(
        asked.image,
        store=around.store,
        settings=around.settings,
        keychain=keychain,
        policies=asked.pull_policy,
        platform=asked.platform,
        id_map=id_map,
        tenant=policy.tenant(asked.image, around.settings, build_user=build_user),
    )


def _auth_environ(environ: Mapping[str, str], job_variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which credentials are looked up: the job's DOCKER_AUTH_CONFIG beats the runner's."""
    found = dict(environ)
    if job_variables.get("DOCKER_AUTH_CONFIG"):
        found["DOCKER_AUTH_CONFIG"] = job_variables["DOCKER_AUTH_CONFIG"]
    return found


def plan(job: payload.Job, around: Surroundings, job_variables: Mapping[str, str], *, key: str, keychain: auth.Keychain) -> JobSpec:
    """Turn GitLab's wishes into ours, as far as policy allows."""
    settings = around.settings
    image = policy.image(job, settings)
    assigned = services.assign(policy.services(job, settings), taken=("build",))
    asked_services = [service for service in assigned if not docker.is_dind(service.asked.name)]
    shared = volumes.plan(
        job,
        settings,
        job_variables,
        state_dir=around.store.root,
        project_dir=job_variables.get("CI_PROJECT_DIR", "") or settings.gitlab.builds_dir,
    )
    env = environment.for_container(job_variables, job.file_names())
    api = docker.plan(
        [service for service in assigned if docker.is_dind(service.asked.name)],
        around,
        job_variables,
        volumes=shared,
        protected=volumes.is_protected(job),
        keychain=keychain,
    )
    hostname = _hostname(job, settings.gitlab.hostname, job_variables)
    init = environment.flag(job_variables, "FF_USE_INIT_WITH_DOCKER_EXECUTOR")
    build = ContainerSpec(
        name=stages.BUILD,
        image=image.name,
        pull_policy=policy.pull_policies(image.pull_policy, settings, name=image.name),
        platform=image.platform,
        entrypoint=None if settings.gitlab.disable_entrypoint_overwrite else image.entrypoint,
        command=(),
        env=(*env, *docker.environment(api, job_variables)),
        user=policy.user(image, settings),
        hostname=hostname,
        aliases=("build",),
        volumes=shared,
        limits=settings.limits,
        init=init,
    )
    started = []
    for number, service in enumerate(asked_services):
        wanted = service.asked
        name = f"service-{number}"
        started.append(
            ContainerSpec(
                name=name,
                image=wanted.name,
                pull_policy=policy.pull_policies(wanted.pull_policy, settings, name=wanted.name),
                platform=wanted.platform,
                entrypoint=None if settings.gitlab.disable_entrypoint_overwrite else wanted.entrypoint,
                command=wanted.command,
                env=services.environment(wanted, job, env),
                user=wanted.user,
                hostname=service.aliases[0][:_LONGEST_HOST_NAME].rstrip("._-"),
                aliases=service.aliases,
                volumes=shared,
                limits=settings.service_limits,
                init=init,
            )
        )
    return JobSpec(
        key=key,
        build_user=trust_domain(job, settings.gitlab.trust_domain),
        containers=(build, _helper(around, env, hostname, shared)),
        services=tuple(started),
        docker=api,
        extra_hosts=tuple((name, ip) for name, _, ip in (entry.partition(":") for entry in settings.gitlab.extra_hosts)),
    )


def trust_domain(job: payload.Job, kind: str) -> str:
    """Name the build user of a job: jobs of one project, of one top-level namespace, or of the whole GitLab share one."""
    match kind:
        case "namespace":
            return f"gitlab-{instance(job)}-namespace-{job.root_namespace_id}"
        case "runner":
            return f"gitlab-{instance(job)}"
        case _:
            return f"gitlab-{instance(job)}-project-{job.project_id}"


def _hostname(job: payload.Job, configured: str, job_variables: Mapping[str, str]) -> str:
    token, number = job_variables.get("CI_RUNNER_SHORT_TOKEN", ""), job_variables.get("CI_CONCURRENT_PROJECT_ID", "")
    slot = number if number.isascii() and number.isdigit() and len(number) < 10 else "0"
    wanted = configured or f"runner-{token + '-' if token else ''}project-{job.project_id}-concurrent-{slot}"
    kept = "".join(c.lower() if c.isascii() and (c.isalnum() or c == ".") else "-" for c in wanted)
    return kept[:_LONGEST_HOST_NAME].strip(".-") or "job"


def _helper(around: Surroundings, env: tuple[tuple[str, str], ...], hostname: str, shared: tuple[VolumeSpec, ...]) -> ContainerSpec:
    """Return the container of the stages that gitlab-runner writes: root, no entrypoint, git and gitlab-runner at hand."""
    settings = around.settings
    # the image's own PATH: a job that sets one means its script, and would hide the tools
    env = tuple(pair for pair in env if pair[0] != "PATH")
    own: tuple[VolumeSpec, ...] = ()
    if settings.gitlab.helper_image == "toolbox":
        binary = _runner_binary(settings.gitlab.runner_binary)
        if binary and not binary.startswith("/usr/"):
            own = (VolumeSpec(f"{_TOOLS}/gitlab-runner", "bind", binary, read_only=True),)
            env = (*env, ("PATH", f"{process.TRUSTED_PATH}:{_TOOLS}"))
        elif binary:
            env = (*env, ("PATH", f"{process.TRUSTED_PATH}:{os.path.dirname(binary)}"))
    return ContainerSpec(
        name=stages.HELPER,
        image=settings.gitlab.helper_image,
        pull_policy=("if-not-present",),
        entrypoint=(),
        command=(),
        env=env,
        user="0:0",
        hostname=hostname,
        volumes=(*shared, *own),
        limits=settings.limits,
    )


def _runner_binary(configured: str) -> str:
    """Return the host's gitlab-runner, "" without one: caches and artifacts are then skipped with a warning in the job log."""
    try:
        return os.path.realpath(process.find(configured or "gitlab-runner"))
    except FileNotFoundError as e:
        if configured:
            raise InfraError(f"gitlab.runner_binary {configured} is not there", "correct the path in the configuration") from e
        return ""


def _container(spec: JobSpec, name: str) -> ContainerSpec:
    return next(container for container in spec.containers if container.name == name)


def _wait_for_services(current: JobState, around: Surroundings, environments: dict[str, tuple[tuple[str, str], ...]]) -> None:
    """Wait for each service's port; one that stays closed is a warning with its log, and the job goes on (waitForServices)."""
    configured = around.settings.gitlab.wait_for_services_timeout
    if not environments or configured < 0:
        return
    from runner.job import health  # sockets cost 3 ms to import: for jobs with services

    timeout_s = float(configured or 30)
    log.say(f"Waiting for services to be up and running (timeout {timeout_s:.0f} seconds)...")
    wanted = {name: services.ports(env, current.container(name).exposed_ports) for name, env in environments.items()}
    for report in health.wait_healthy(current, wanted, timeout_s=timeout_s):
        if report.problem:
            image = current.container(report.name).image
            output = job_services.log_tail(around.store, current.key, report.name)
            log.warn(f"Service {image} probably didn't start properly.\n\nHealth check error:\nservice {image!r} {report.problem}\n")
            log.say("Health check container logs:\n" + "\n".join(report.tried) + f"\n\nService container logs:\n{output}\n\n" + "*" * 9)

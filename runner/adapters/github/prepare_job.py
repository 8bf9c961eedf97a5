"""prepare_job: the job's container and its services, healthy, with their ports, and what the runner has to know of them."""

from __future__ import annotations

import os

from runner import errors
from runner.adapters.github import containers, docker, identity, message, names, options, ports, says, services, start
from runner.adapters.github.run_script_step import CONTAINER
from runner.job import cleanup, furnish, gc_background, keeper, prepare, publish, state, stay
from runner.kernel import syscalls
from runner.model import JobSpec
from runner.record import NamedTuple
from runner.sandbox import build_users, network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runner.adapters.github.containers import Wanted
    from runner.job.state import JobState
    from runner.job.surroundings import Surroundings
    from runner.model import ContainerSpec, IdMap, Image

_LARGEST_RELEASE = 64 * 1024


def main(asked: message.Message, work: str, environ: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Make the job. Raises RunnerErrors, and then leaves nothing behind."""
    around = start.surroundings(environ)
    key = identity.key(work)
    if state.load(around.store, key):
        cleanup.cleanup(around.store, key, around.account)  # of a run that its runner did not end
    gc_background.start_if_full(around)
    plan = _plan(asked, around, work=work, environ=environ)
    spec, fetched = _job_spec(plan, around, key=key, work=work, environ=environ)
    sources = {each.spec.name: each.asked for each in plan.everybody()}

    def fetch(wanted: ContainerSpec, id_map: IdMap) -> Image:
        if wanted.name not in fetched:
            fetched[wanted.name] = containers.fetch(wanted, sources[wanted.name], around, environ, id_map, tenant=spec.build_user)
        return fetched[wanted.name]

    facts = {
        **identity.facts(work, environ), "hosts": [list(entry) for entry in spec.extra_hosts],
        "docker": dict(docker.environment(spec.docker, plan.job.spec)) if spec.docker and plan.job else {},
    }  # fmt: skip
    current = prepare.prepare(spec, around, fetch=fetch, facts=facts)
    try:
        checks = {
            each.spec.name: check
            for each in plan.services
            if (check := services.check_of(each.options.health, _health(fetched, each.spec, current)))
        }
        services.wait(current, checks, around.store)
        published = publish.publish(current, plan.ports, network.addresses(around.settings.network.subnet)) if plan.ports else []
        return 0, _answer(plan, current, published)
    except BaseException:
        cleanup.cleanup(around.store, key, around.account)
        raise


class _Plan(NamedTuple):
    """What was asked for, with what is Docker's API taken out of the services."""

    job: Wanted | None
    services: tuple[Wanted, ...]
    engines: tuple[tuple[int, message.Container, tuple[str, ...]], ...]  # index among the services that were asked for, and names
    ports: tuple[publish.Port, ...]

    def everybody(self) -> tuple[Wanted, ...]:
        """Return the job's container and the services."""
        return (*((self.job,) if self.job else ()), *self.services)


def _plan(asked: message.Message, around: Surroundings, *, work: str, environ: Mapping[str, str]) -> _Plan:
    container = message.container(asked.arguments.get("container"))
    wanted = message.containers(asked.arguments.get("services"))
    if container is None and not wanted:
        raise errors.InfraError("the runner asks for a job without a container and without services")
    job = containers.plan(container, around, name=CONTAINER, work=work, aliases=(CONTAINER,)) if container else None
    aliases = names.assign(wanted, [options.parse(each.options) for each in wanted], root=_root(container, work))
    found, engines = [], []
    for number, (each, called) in enumerate(zip(wanted, aliases, strict=True)):
        if docker.is_dind(each.image):
            if job is None:
                raise errors.UserError(
                    f"service {each.image!r} is not started: a Docker API is for jobs with a container", "give the job a `container:`"
                )
            engines.append((number, each, called))
            continue
        one = containers.plan(each, around, name=f"service-{number}", work=work, aliases=called)
        spec = one.spec._replace(
            entrypoint=(one.options.entrypoint or each.entrypoint,) if one.options.entrypoint or each.entrypoint else None,
            command=message.argv("", each.arguments) or None,
            hostname=one.options.hostname or called[0],
        )
        found.append(one._replace(spec=spec))
    for one in ([job] if job else []) + found:
        for warning in one.options.warnings:
            says.warning(f"{one.spec.image}: {warning}")
    if job and job.options.entrypoint:
        says.warning("option --entrypoint of the job's container has no effect: its steps are its programs")
    everybody = [*([job] if job else []), *found]
    published = [port for one in everybody for port in ports.parse(one.spec.name, (*one.asked.ports, *one.options.ports))]
    return _Plan(job, tuple(found), tuple(engines), tuple(published))


def _root(container: message.Container | None, work: str) -> str:
    """Return the runner's own directory: that of its externals, which it mounts into every job container, else the parent of `_work`."""
    externals = next((mount.source for mount in container.system_mounts if mount.target == "/__e"), "") if container else ""
    return os.path.dirname(externals or work)


def _job_spec(plan: _Plan, around: Surroundings, *, key: str, work: str, environ: Mapping[str, str]) -> tuple[JobSpec, dict[str, Image]]:
    """Return the job, and the image that was fetched already: who its user is decides which id is the account's."""
    name = identity.build_user(environ, around.settings.github.trust_domain)
    fetched: dict[str, Image] = {}
    shared_id = 0
    own: tuple[ContainerSpec, ...] = ()
    if plan.job:
        job = plan.job.spec._replace(entrypoint=(), command=(), init=plan.job.spec.init and not stay.is_possible(plan.job.spec))
        user = build_users.lease(around.store, around.account, name)
        image = containers.fetch(job, plan.job.asked, around, environ, user.shared_map(around.account, container_id=0), tenant=name)
        shared_id = containers.account_id(job, image, around, user)
        if shared_id == 0:  # else its layers are wanted with other ids
            fetched[job.name] = image
        own = (job,)
    api = docker.plan([(each, called) for _, each, called in plan.engines], around, job=own[0] if own else None, shared_id=shared_id)
    if api and own:
        own = (own[0]._replace(env=(*docker.environment(api, own[0]), *own[0].env)),)
    hosts = tuple(entry for each in plan.everybody() for entry in each.options.extra_hosts)
    staying = (CONTAINER,) if plan.job and stay.is_possible(plan.job.spec) else ()
    spec = JobSpec(
        key=key, build_user=name, containers=own, staying=staying, services=tuple(each.spec for each in plan.services), docker=api,
        extra_hosts=tuple(dict.fromkeys(hosts)), publishes=bool(plan.ports), shared_id=shared_id, owner=identity.worker(),
    )  # fmt: skip
    return spec, fetched


def _health(fetched: Mapping[str, Image], spec: ContainerSpec, current: JobState) -> Any:
    image = fetched.get(spec.name) or next(
        each for name, each in fetched.items() if current.container(name).image_digest == current.container(spec.name).image_digest
    )
    return image.config.healthcheck


def _answer(plan: _Plan, current: JobState, published: Sequence[int]) -> dict[str, Any]:
    """Return the response in the shape of HookResponse.cs: services are a list in the order of the request."""
    found: dict[str, dict[str, str]] = {}
    for port, number in zip(plan.ports, published, strict=True):
        found.setdefault(port.container, {}).setdefault(str(port.number), str(number))
    entries = {
        int(each.spec.name.rpartition("-")[2]): {
            "id": f"{current.key}-{each.spec.name}", "network": current.key, "ports": found.get(each.spec.name, {}),
            "image": each.spec.image, "contextName": each.spec.aliases[0],
        }
        for each in plan.services
    }  # fmt: skip
    for number, each, called in plan.engines:
        entries[number] = {
            "id": f"{current.key}-docker",
            "network": current.key,
            "ports": {},
            "image": each.image,
            "contextName": called[0],
        }
    answer: dict[str, Any] = {"state": {"job": current.key}, "context": {"services": [entries[number] for number in sorted(entries)]}}
    if plan.job:  # the runner chokes on both when it asked for no container
        answer["context"]["container"] = {
            "id": f"{current.key}-{CONTAINER}", "network": current.key, "ports": found.get(CONTAINER, {}), "image": plan.job.spec.image,
        }  # fmt: skip
        answer["isAlpine"] = _is_alpine(current)
    return answer


def _is_alpine(current: JobState) -> bool:
    """Tell whether the job's image is Alpine, by its os-release, without a process in it."""
    return bool(keeper.call(current.keeper, lambda: _says_alpine(f"{furnish.bundle(CONTAINER)}/root")))


def _says_alpine(root: str) -> bool:
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in ("etc/os-release", "usr/lib/os-release", "etc/alpine-release"):
            try:
                fd = syscalls.openat2(base, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:
                continue
            with open(fd, "rb") as file:
                text = file.read(_LARGEST_RELEASE).decode(errors="replace").lower()
            if path == "etc/alpine-release":
                return True
            rows = [line.strip().partition("=") for line in text.splitlines()]
            if any(key == "id" and value.strip("\"' ") == "alpine" for key, _, value in rows):
                return True
    finally:
        os.close(base)
    return False

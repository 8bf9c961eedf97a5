"""run_container_step: an action that is an image, or a Dockerfile; in the job's network if there is a job, and gone afterwards."""

from __future__ import annotations

import os
from binascii import crc32

from runner import errors
from runner.adapters.github import attended, containers, identity, leftovers, message, places, says, start
from runner.adapters.github.run_script_step import GRACE_S, answer
from runner.image import auth
from runner.job import build, gc, join, oneoff
from runner.model import ContainerSpec, JobSpec
from runner.sandbox import build_users, crun
from runner.sandbox.engine_files import Login

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner.adapters.github.containers import Wanted
    from runner.job.state import JobState
    from runner.job.surroundings import Surroundings
    from runner.model import BuildUser, IdMap, Image, Outcome


def main(asked: message.Message, work: str, environ: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Run one action to its end and return its exit code. Raises RunnerErrors for what is not its doing."""
    around = start.surroundings(environ)
    current = identity.current(around.store, work, environ)  # there may be none: a job of nothing but actions is not prepared
    container = message.container(asked.arguments)
    if container is None or not (container.image or container.dockerfile):
        raise errors.InfraError("the runner asks for a container without an image and without a Dockerfile")
    tenant = identity.build_user(environ, around.settings.github.trust_domain)
    if container.dockerfile:
        container = container._replace(image=_build(container.dockerfile, around, work=work, environ=environ, tenant=tenant))
    wanted = _plan(container, around, work=work, current=current)
    if current is None or not current.keeper.is_alive():
        code = _alone(wanted, around, environ, work=work, tenant=tenant)
    else:
        code = _beside(current, wanted, around, environ, tenant=tenant)
    return code, answer(current.key) if current else {}


def _plan(container: message.Container, around: Surroundings, *, work: str, current: JobState | None) -> Wanted:
    name = f"action-{os.getpid()}" if current else oneoff.CONTAINER
    if container.dockerfile:
        settings = around.settings._replace(images=around.settings.images._replace(allowed=()))  # its base image is the Dockerfile's choice
        wanted = containers.plan(container, around._replace(settings=settings), name=name, work=work)
    else:
        wanted = containers.plan(container, around, name=name, work=work)
    spec = wanted.spec._replace(
        entrypoint=(container.entrypoint,) if container.entrypoint else None,
        command=message.argv("", container.arguments) or None,
        pull_policy=("never",) if container.dockerfile else wanted.spec.pull_policy,
    )
    return wanted._replace(spec=spec)


def _build(dockerfile: str, around: Surroundings, *, work: str, environ: Mapping[str, str], tenant: str) -> str:
    """Build a Dockerfile of `_work` and return the name of its image, under which it stays until the collector wants its room."""
    path = places.beneath(work, dockerfile)
    mark = f"{tenant}\n{path}".encode()
    name = f"dockless-action/{crc32(mark):08x}{crc32(mark[::-1]):08x}:latest"
    keychain = auth.Keychain.of_account(around.account.home, environ)
    logins = tuple(Login(place, found.username, found.password, found.identity_token) for place, found in keychain.all())
    request = build.Request(name=name, context=os.path.dirname(path), file=path, build_user=tenant)
    says.line(f"::group::Building {os.path.relpath(path, os.path.realpath(work))}")
    try:
        code = attended.call(lambda: build.run(request, around, logins=logins, environ=dict(environ), grace_s=GRACE_S).exit_code)
    finally:
        says.line("::endgroup::")
        gc.reap(around.store, around.account)
    if code:
        raise errors.UserError(f"{dockerfile} cannot be built: buildah ended with {code}", "its own words are above")
    return name


def _image(wanted: Wanted, around: Surroundings, environ: Mapping[str, str], user: BuildUser, *, tenant: str) -> tuple[Image, int]:
    """Return the action's image, unpacked, and the id in it that is the runner's account."""
    tenant = "" if wanted.asked.dockerfile else tenant  # it was built for this one
    first = user.shared_map(around.account, container_id=0)
    image = containers.fetch(wanted.spec, wanted.asked, around, environ, first, tenant=tenant)
    return image, containers.account_id(wanted.spec, image, around, user)


def _beside(current: JobState, wanted: Wanted, around: Surroundings, environ: Mapping[str, str], *, tenant: str) -> int:
    """Run an action in the network of a job that stands."""
    own = os.getpid()

    def inside() -> int:
        image, shared_id = _image(wanted, around, environ, current.build_user, tenant=tenant)
        hosts = tuple((str(name), str(ip)) for name, ip in current.facts.get("hosts", ()))
        api: dict[str, str] = current.facts.get("docker", {})
        asked = wanted.spec._replace(env=(*api.items(), *wanted.spec.env))
        return _reported(
            lambda: join.run(
                current, asked, around, image=image, shared_id=shared_id, extra_hosts=hosts, parent_pid=own, stdin=_nothing(),
                grace_s=GRACE_S, with_docker=bool(api),
            )
        )  # fmt: skip

    try:
        return attended.call(inside)
    finally:
        join.remove(current, wanted.spec, around)


def _alone(wanted: Wanted, around: Surroundings, environ: Mapping[str, str], *, work: str, tenant: str) -> int:
    """Run an action in a job of its own, which ends with it."""

    def inside() -> int:
        user = build_users.lease(around.store, around.account, tenant)
        image, shared_id = _image(wanted, around, environ, user, tenant=tenant)
        spec = JobSpec(
            key=f"{identity.key(work)}-{os.getpid()}", build_user=tenant, containers=(wanted.spec,), shared_id=shared_id,
            owner=identity.worker(),
        )  # fmt: skip

        def fetch(asked: ContainerSpec, id_map: IdMap) -> Image:
            if shared_id == 0:
                return image
            return containers.fetch(asked, wanted.asked, around, environ, id_map, tenant="" if wanted.asked.dockerfile else tenant)

        return _reported(lambda: oneoff.run_job(spec, around, fetch=fetch, stops=True, grace_s=GRACE_S, stdin=_nothing()))

    try:
        return attended.call(inside)
    finally:
        gc.reap(around.store, around.account)  # a child that was killed could not
        leftovers.give_back(build_users.lease(around.store, around.account, tenant), around, work, environ)


def _reported(run: Callable[[], Outcome]) -> int:
    """Run a container and return its exit code, its own or that of a program that could not be started."""
    try:
        outcome = run()
    except crun.StartFailure as e:
        says.error(e.message, e.hint)
        return e.exit_code
    if outcome.oom_killed:
        says.error("the memory limit was reached and a process of the action was killed (OOM)")
    return outcome.exit_code


def _nothing() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

"""What the runner asks of a container, as a container of ours: policy, image, user, environment, limits."""

from __future__ import annotations

import os

from runner import globs
from runner.adapters.github import options, volumes
from runner.errors import UserError
from runner.image import auth, layers, pull, reference
from runner.model import IDS_PER_BUILD_USER, ContainerSpec, Limits
from runner.record import NamedTuple
from runner.sandbox import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    from runner.adapters.github.message import Container
    from runner.adapters.github.options import Options
    from runner.config import Settings
    from runner.job.surroundings import Surroundings
    from runner.model import BuildUser, IdMap, Image

    _N = TypeVar("_N", int, float)

_HUB = "https://index.docker.io/v1/"


class Wanted(NamedTuple):
    """A container with what of its options is not part of the spec."""

    spec: ContainerSpec
    options: Options
    asked: Container


def plan(asked: Container, around: Surroundings, *, name: str, work: str, aliases: tuple[str, ...] = ()) -> Wanted:
    """Return a container as it will be made. UserError for what is not allowed, or cannot be had."""
    settings = around.settings
    check_allowed(asked.image, settings)
    chosen = options.parse(asked.options)
    env = {"CI": "true", "GITHUB_ACTIONS": "true"}
    env.update((*asked.environment, *chosen.env))
    limits = settings.limits if name == "job" else settings.service_limits
    return Wanted(
        ContainerSpec(
            name=name,
            image=asked.image,
            pull_policy=_policies(chosen.pull, settings),
            platform=chosen.platform,
            env=tuple(env.items()),
            user=chosen.user,
            working_dir=chosen.workdir or asked.working_directory,
            hostname=chosen.hostname,
            aliases=aliases,
            volumes=volumes.plan(
                asked, chosen.volumes, work=work, state_dir=around.store.root, allowed=settings.github.allowed_volumes, name=name
            ),
            limits=_smaller(chosen.limits, limits),
            init=chosen.init,
            nested=chosen.privileged,
            capabilities=chosen.capabilities,
            shm_size=chosen.shm_size,
        ),
        chosen,
        asked,
    )


def _smaller(asked: Limits, configured: Limits) -> Limits:
    """Return the limits that both ask for: a workflow may have less than the machine allows, not more."""
    return Limits(
        memory=_lower(asked.memory, configured.memory), cpus=_lower(asked.cpus, configured.cpus), pids=_lower(asked.pids, configured.pids)
    )


def _lower(one: _N, other: _N) -> _N:
    return min(one, other) if one and other else one or other


def check_allowed(image: str, settings: Settings) -> None:
    """Raise UserError for an image that jobs of this machine may not use."""
    canonical = reference.canonical(image)
    kind = reference.local_kind(canonical)
    allowed = settings.images.allowed
    if kind:
        if any(pattern.startswith(f"{kind}:") and globs.matches(pattern, canonical) for pattern in allowed):
            return
        raise UserError(f"image {image!r} is a file of the machine, which jobs may not use", "use a registry")
    if not allowed or image == settings.images.default or any(globs.matches(pattern, image) for pattern in allowed):
        return
    raise UserError(f"image {image!r} is not allowed on this runner", f"allowed: {', '.join(allowed)}")


def _policies(asked: str, settings: Settings) -> tuple[str, ...]:
    configured = settings.images.pull_policy or ("always",)
    allowed = settings.images.allowed_pull_policies or configured
    wanted = (asked,) if asked in allowed else configured  # --pull is a wish, as a policy it is the administrator's
    return tuple(policy for policy in wanted if policy in allowed) or configured


def fetch(
    asked: ContainerSpec, source: Container, around: Surroundings, environ: Mapping[str, str], id_map: IdMap, *, tenant: str
) -> Image:
    """Return a container's image, stored and unpacked. Raises RunnerErrors as pull.ensure."""
    return pull.ensure(
        asked.image, store=around.store, settings=around.settings, keychain=keychain(source, around, environ),
        policies=asked.pull_policy, platform=asked.platform, id_map=id_map,
        tenant="" if asked.image == around.settings.images.default else tenant,
    )  # fmt: skip


def keychain(source: Container, around: Surroundings, environ: Mapping[str, str]) -> auth.Keychain:
    """Return the credentials of a container: those that came with it, else the machine's own."""
    given = source.registry
    if given is None:
        return auth.Keychain.of_account(around.account.home, environ)
    return auth.Keychain(payload=[(given.server or _HUB, given.username, given.password)], environ={"HOME": around.account.home})


def account_id(spec: ContainerSpec, image: Image, around: Surroundings, user: BuildUser) -> int:
    """Return the id in the container that has to be the runner's account: that of the user whose processes write to `_work`."""
    wanted = (spec.user or image.config.user).partition(":")[0]
    if not wanted or wanted == "root":
        return 0
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 10:
        return int(wanted) if int(wanted) < IDS_PER_BUILD_USER else 0  # furnishing says what is wrong with such an id
    id_map = user.shared_map(around.account, container_id=0)
    for lower in layers.lower_directories(image, id_map, store=around.store) if image.layers else ():
        if os.path.lexists(f"{lower}/etc/passwd"):
            root = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return users.resolve(wanted, root=root).uid
            finally:
                os.close(root)
    return 0

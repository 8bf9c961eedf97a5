"""Mounts of the runner and of the workflow as volumes of ours: what is the runner's, what a job may name, and what is only its own."""

from __future__ import annotations

import os

from runner import globs
from runner.adapters.github import places, says
from runner.adapters.github.message import Mount
from runner.errors import UserError
from runner.model import VolumeSpec
from runner.sandbox import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.adapters.github.message import Container


def plan(
    asked: Container, texts: Iterable[str], *, work: str, state_dir: str, allowed: tuple[str, ...], name: str
) -> tuple[VolumeSpec, ...]:
    """Return a container's volumes in their order: the runner's, the workflow's, and those of `options:` (`texts`).

    `allowed` are globs of the host's paths that a workflow may name. Missing directories below `_work` are made. UserError for what is
    refused.
    """
    found: dict[str, VolumeSpec] = {}
    for mount in asked.system_mounts:
        volume = _of_runner(mount, work=work, state_dir=state_dir)
        if volume:
            found[volume.target] = volume
    for mount in (*asked.user_mounts, *(_parsed(text) for text in texts)):
        if _is_docker_socket(mount):
            says.warning(f"volume {mount.source} has no effect: a job that asks for Docker has an API of its own there")
            continue
        volume = _of_workflow(mount, work=work, state_dir=state_dir, allowed=allowed, name=name)
        found[volume.target] = volume
    return tuple(found.values())


def _is_docker_socket(mount: Mount) -> bool:
    return os.path.basename(mount.source) == "docker.sock"


def _parsed(text: str) -> Mount:
    source, target, mode = mounts.split(text)
    return Mount(source, target, "ro" in mode.split(","))


def _of_runner(mount: Mount, *, work: str, state_dir: str) -> VolumeSpec | None:
    target = mounts.check_target(mount.target, mount.target)
    if _is_docker_socket(mount):
        return None  # always asked for, whether it exists or not; a job's own API is shown at the same place (job.docker)
    if not mount.source:
        return VolumeSpec(target, "job", mounts.volume_name(target), mount.read_only)
    if places.within(mount.source, work):
        return VolumeSpec(target, "bind", places.beneath(work, mount.source, make=True), mount.read_only)
    source = os.path.normpath(mount.source)
    if not os.path.exists(source):
        if places.within(source, os.path.dirname(work)):
            os.makedirs(source, 0o755, exist_ok=True)  # of the runner's own directory, to which jobs cannot write
        else:
            says.warning(f"{source} is not on this machine: {target} is not there in the container")
            return None
    return VolumeSpec(target, "bind", mounts.check_source(source, f"{source}:{target}", state_dir=state_dir), mount.read_only)


def _of_workflow(mount: Mount, *, work: str, state_dir: str, allowed: tuple[str, ...], name: str) -> VolumeSpec:
    text = f"{mount.source}:{mount.target}" if mount.source else mount.target
    target = mounts.check_target(mount.target, text)
    if not mount.source:  # anonymous: each container has its own
        return VolumeSpec(target, "job", f"{name}-{mounts.volume_name(target)}", mount.read_only)
    if "/" not in mount.source and not mounts.is_host_path(mount.source):
        return mounts.parse(f"{mount.source}:{target}{':ro' if mount.read_only else ''}", state_dir=state_dir, cwd=work)
    if places.within(mount.source, work):
        return VolumeSpec(target, "bind", places.beneath(work, mount.source, make=True), mount.read_only)
    real = mounts.real_path(os.path.join(work, mount.source), text)
    if not any(globs.matches(pattern, real) for pattern in allowed):
        raise UserError(
            f"volume {text!r} is refused: workflows may not name {real} of the host",
            "the administrator allows it by `github: {allowed_volumes: [PATH, PATH/**]}`",
        )
    return VolumeSpec(target, "bind", mounts.check_source(real, text, state_dir=state_dir), mount.read_only)

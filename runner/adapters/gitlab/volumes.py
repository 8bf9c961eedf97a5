"""Volumes of a job: its builds directory and caches, and who shares them (internal/volumes of GitLab Runner's docker executor)."""

import hashlib
from collections.abc import Mapping

from runner import config
from runner.adapters.gitlab import payload
from runner.adapters.gitlab.services import expand
from runner.errors import UserError
from runner.model import VolumeSpec
from runner.sandbox import mounts


def plan(
    job: payload.Job, settings: config.Settings, job_variables: Mapping[str, str], *, state_dir: str, project_dir: str
) -> tuple[VolumeSpec, ...]:
    """Return the volumes that helper, build and service containers all get. UserError for an entry that cannot be used."""
    gitlab = settings.gitlab
    suffix = "-protected" if is_protected(job) else ""
    found = []
    for entry in gitlab.volumes:
        found.append(_entry(expand(entry, job_variables), suffix, settings, state_dir=state_dir, project_dir=project_dir))
    builds = gitlab.builds_dir.rstrip("/")
    if all(volume.target != builds for volume in found):
        # fetch works on what the last job left; everything else starts from nothing and ends with the job
        reuse = (job.variable("GIT_STRATEGY") or "fetch") == "fetch"
        found.append(VolumeSpec(builds, "build-user", _reusable(builds, suffix)) if reuse else VolumeSpec(builds, "job", "builds"))
    targets = [volume.target for volume in found]
    for target in targets:
        if targets.count(target) > 1:
            raise UserError(f"volume {target} is defined twice", "gitlab.volumes in the configuration")
    return tuple(found)


def _entry(text: str, suffix: str, settings: config.Settings, *, state_dir: str, project_dir: str) -> VolumeSpec:
    if ":" in text:
        return mounts.parse(text, state_dir=state_dir, cwd="/")
    target = mounts.check_target(text if text.startswith("/") else f"{project_dir}/{text}", text)
    if settings.gitlab.disable_cache:
        return VolumeSpec(target, "job", mounts.volume_name(target))
    return VolumeSpec(target, "build-user", _reusable(target, suffix))


def _reusable(target: str, suffix: str) -> str:
    return f"cache-{hashlib.md5(target.encode(), usedforsecurity=False).hexdigest()}{suffix}"


def is_protected(job: payload.Job) -> bool:
    """Tell whether a job uses the volumes of protected refs, which others cannot write to and so cannot poison.

    GitLab says so by git_info.protected, older ones by the first CI_COMMIT_REF_PROTECTED; a cache key ending in -protected asks for it.
    """
    if job.protected is not None:
        if job.protected:
            return True
    elif next((v.value for v in job.variables if v.key == "CI_COMMIT_REF_PROTECTED"), "") == "true":
        return True
    return any(key.endswith("-protected") and not key.endswith("-non_protected") for key in job.cache_keys)

"""Volumes of a job: its builds directory and caches, and who shares them (internal/volumes of GitLab Runner's docker executor)."""

from __future__ import annotations

from _md5 import md5  # type: ignore[import-not-found]  # hashlib loads a TLS library beside it, which costs 3 ms

from runner.adapters.gitlab.services import expand
from runner.errors import UserError
from runner.model import VolumeSpec
from runner.sandbox import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner import config
    from runner.adapters.gitlab import payload


def plan(
    job: payload.Job, settings: config.Settings, job_variables: Mapping[str, str], *, state_dir: str, project_dir: str
) -> tuple[VolumeSpec, ...]:
    """Return the volumes that helper, build and service containers all get. UserError for an entry that cannot be used."""
    gitlab = settings.gitlab

    def place(target: str) -> str:
        # the target only: a job's variable must not be able to name a path of the host
        expanded = expand(target, job_variables)
        return expanded if expanded.startswith("/") or not expanded else f"{project_dir}/{expanded}"

    found = [_kept(mounts.parse(text, state_dir=state_dir, cwd="/", place=place), job, settings) for text in gitlab.volumes]
    builds = mounts.check_target(gitlab.builds_dir, gitlab.builds_dir)
    if not any(volume.target == builds or _holds_builds(volume.kind == "bind", volume.target, builds) for volume in found):
        # fetch works on what the last job left; everything else starts from nothing and ends with the job
        volume = VolumeSpec(builds, "job", "builds")
        found.append(_kept(volume, job, settings) if _fetches(job, job_variables) else volume)
    targets = [volume.target for volume in found]
    for target in targets:
        if targets.count(target) > 1:
            raise UserError(f"volume {target} is defined twice", "gitlab.volumes in the configuration")
    return tuple(found)


def _kept(volume: VolumeSpec, job: payload.Job, settings: config.Settings) -> VolumeSpec:
    """Let a volume that was given no source outlive the job, for jobs of the same project, unless caches are disabled."""
    if volume.kind != "job" or settings.gitlab.disable_cache:
        return volume
    digest = md5(volume.target.encode(), usedforsecurity=False).hexdigest()
    # the build user may be shared by several projects, caches are not
    name = f"cache-{job.project_id}-{digest}{'-protected' if is_protected(job) else ''}"
    return volume._replace(kind="build-user", source=name)


def _fetches(job: payload.Job, job_variables: Mapping[str, str]) -> bool:
    strategy = job_variables.get("GIT_STRATEGY", "")
    return strategy == "fetch" or (strategy not in ("clone", "none", "empty") and job.allow_git_fetch)


def builds_are_shared(settings: config.Settings, job_variables: Mapping[str, str]) -> bool:
    """Tell whether the builds directory lies on a directory of the host, where jobs that run side by side would meet."""
    builds = mounts.check_target(settings.gitlab.builds_dir, settings.gitlab.builds_dir)
    for text in settings.gitlab.volumes:
        try:
            source, target, _ = mounts.split(text)
            if _holds_builds(mounts.is_host_path(source), mounts.check_target(expand(target, job_variables), text), builds):
                return True
        except UserError:
            continue  # below the project, or wrong: preparing says so
    return False


def _holds_builds(is_host_path: bool, target: str, builds: str) -> bool:
    return is_host_path and mounts.is_within(builds, target)


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

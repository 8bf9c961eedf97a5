"""What a job may use: images, pull policies, services and users, judged on what GitLab sent and never on job variables."""

from __future__ import annotations

from runner import globs, log
from runner.adapters.gitlab import payload
from runner.errors import UserError
from runner.image import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner import config


def image(job: payload.Job, settings: config.Settings) -> payload.Image:
    """Return the job's image, or the configured default. UserError if it is not allowed."""
    chosen = job.image or payload.Image(settings.images.default)
    _check_allowed(chosen.name, settings.images.allowed, always=[settings.images.default], what="image")
    return chosen


def services(job: payload.Job, settings: config.Settings) -> tuple[payload.Image, ...]:
    """Return the configured services, then the job's. UserError if one of the job's is not allowed or if there are too many together."""
    gitlab = settings.gitlab
    for service in job.services:
        _check_allowed(service.name, gitlab.allowed_services, always=[s.name for s in gitlab.services], what="service")
    configured = tuple(
        payload.Image(
            name=s.name,
            aliases=tuple(s.alias.replace(",", " ").split()),
            entrypoint=s.entrypoint or None,
            command=s.command or None,
            variables=tuple(payload.Variable(key, value, public=True, file=False, raw=False) for key, value in s.environment),
        )
        for s in gitlab.services
    )
    wanted = configured + job.services
    if gitlab.services_limit and len(wanted) > gitlab.services_limit:
        raise UserError(
            f"job has {len(wanted)} services, the limit is {gitlab.services_limit}", "gitlab.services_limit in the configuration"
        )
    return wanted


def _check_allowed(name: str, allowed: Sequence[str], *, always: Sequence[str], what: str) -> None:
    canonical = reference.canonical(name)  # before anything repeats the name in the job log: what is no name may be a password
    if name in always:
        return
    kind = reference.local_kind(canonical)
    if kind:
        # the account can read what other tenants keep in its store: only a pattern that says so opens files of the machine to jobs
        if any(pattern.startswith(f"{kind}:") and globs.matches(pattern, canonical) for pattern in allowed):
            return
        raise UserError(
            f"{what} {name!r} is a file of the machine, which jobs may not use",
            f"use a registry, or have the administrator allow it by name: {kind}:/directory/**",
        )
    if not allowed or any(globs.matches(pattern, name) for pattern in allowed):
        return
    log.say(f"Please ensure the {what} is allowed: {name!r} is not on the list of allowed {what}s:")
    for pattern in allowed:
        log.say(f"- {pattern}")
    raise UserError(f"{what} {name!r} is not allowed on this runner", f"allowed: {', '.join(allowed)}")


def tenant(name: str, settings: config.Settings, *, build_user: str) -> str:
    """Return whose right to a stored image counts: nobody's for what the administrator chose for all jobs, else the build user's."""
    chosen = (settings.images.default, settings.gitlab.helper_image, *(service.name for service in settings.gitlab.services))
    return "" if name in chosen else build_user


def pull_policies(asked: Sequence[str], settings: config.Settings, *, name: str) -> tuple[str, ...]:
    """Return the policies to try, in order: the job's, else the configured ones, as far as they are allowed. UserError if none is."""
    configured = settings.images.pull_policy or ("always",)
    allowed = settings.images.allowed_pull_policies or configured
    wanted = tuple(asked) or configured
    effective = tuple(policy for policy in wanted if policy in allowed)
    if not effective:
        raise UserError(
            f"pull policy {list(wanted)} of {name!r} is not allowed on this runner", f"allowed_pull_policies are {', '.join(allowed)}"
        )
    log.say(f"Using effective pull policy of [{' '.join(effective)}] for container {name}")
    return effective


def user(chosen: payload.Image, settings: config.Settings) -> str:
    """Return the user of the build container: the configured, else the job's, "" for the image's own. UserError if it is not allowed."""
    gitlab = settings.gitlab
    wanted = gitlab.user or chosen.user
    if chosen.user not in ("", wanted):
        log.warn(f"user {chosen.user!r} of the job is not used: this runner is configured for {wanted!r}")
    if wanted and gitlab.allowed_users and wanted not in gitlab.allowed_users:
        raise UserError(f"user {wanted!r} is not allowed on this runner", f"allowed: {', '.join(gitlab.allowed_users)}")
    return wanted

"""The environment of a step in its container: what the runner says about the job and what the step sets, nothing of the host.

The runner mixes its host's variables into those of the step. What the worker has with the same value is the host's.
"""

from __future__ import annotations

from runner.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ALWAYS = ("GITHUB_", "RUNNER_", "ACTIONS_ID_TOKEN_")
# containers need the way out that the host needs; the runner passes them on to its own containers as well
_ALWAYS_NAMES = ("CI", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
# a path of the host's, or what a shell between the worker and us has added
_NEVER = ("PATH", "PWD", "OLDPWD", "SHLVL", "_")
_OWN = "DOCKLESS_"


def check(environ: Mapping[str, str]) -> None:
    """Raise UserError where this is no step of a job."""
    for name in ("GITHUB_RUN_ID", "GITHUB_WORKSPACE", "RUNNER_TEMP"):
        if not environ.get(name):
            raise UserError(
                f"step: {name} is not set: this is no step of a GitHub Actions job", "for a container of its own there is `dockless run`"
            )


def for_step(environ: Mapping[str, str], host: Mapping[str, str] | None) -> dict[str, str]:
    """Return the step's variables, given those of the worker; None if they are not known, which leaves what surely is the job's."""
    return {name: value for name, value in environ.items() if _is_passed(name, value, host) and _is_text(name + value)}


def _is_passed(name: str, value: str, host: Mapping[str, str] | None) -> bool:
    if name.startswith(_ALWAYS) or name in _ALWAYS_NAMES:
        return True
    if host is None or name in _NEVER or name.startswith(_OWN):
        return False
    return host.get(name) != value


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a container's process is described in JSON, which has no other bytes
        return False
    return True


def path_first(environ: Mapping[str, str], host: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return what earlier steps put into GITHUB_PATH, latest first: the entries of PATH that the worker does not have."""
    if host is None:
        return ()
    known = host.get("PATH", "").split(":")
    return tuple(entry for entry in environ.get("PATH", "").split(":") if entry and entry not in known and _is_text(entry))

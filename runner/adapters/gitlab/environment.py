"""The environment that gitlab-runner gives a driver: job variables behind CUSTOM_ENV_, and our own small channel between the verbs.

Job variables can be set by whoever writes .gitlab-ci.yml; what has no prefix cannot (contract: common/config.go, executors/custom).
"""

from __future__ import annotations

from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


_PREFIX = "CUSTOM_ENV_"
# what the runner adds by itself as files, although it is not in the payload
_RUNNER_FILES = ("CI_SERVER_TLS_CA_FILE", "CI_SERVER_TLS_CERT_FILE", "CI_SERVER_TLS_KEY_FILE")

JOB = "DOCKLESS_JOB"
STATE_DIR = "DOCKLESS_STATE_DIR"
ACCOUNT = "DOCKLESS_ACCOUNT"
CALLER = "DOCKLESS_CALLER"


class Codes(NamedTuple):
    """The exit codes that this runner wants: the job's own failure, and the system's."""

    build_failure: int
    system_failure: int


def codes(environ: Mapping[str, str]) -> Codes:
    """Return the exit codes that the runner announced, 1 and 2 without an announcement."""

    def number(name: str, default: int) -> int:
        text = environ.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else default

    return Codes(number("BUILD_FAILURE_EXIT_CODE", 1), number("SYSTEM_FAILURE_EXIT_CODE", 2))


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the job's variables, as the runner resolved them; file variables have their content here."""
    return {name[len(_PREFIX) :]: value for name, value in environ.items() if name.startswith(_PREFIX) and len(name) > len(_PREFIX)}


def values(job_variables: Mapping[str, str], names: Collection[str]) -> tuple[str, ...]:
    """Return the values of some variables."""
    return tuple(job_variables[name] for name in names if job_variables.get(name))


def for_container(job_variables: Mapping[str, str], file_names: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return a container's environment: file variables as the path that the job's scripts write them to, as docker's executor does."""
    directory = job_variables.get("RUNNER_TEMP_PROJECT_DIR", "")
    found = {}
    for name, value in job_variables.items():
        if "=" in name or "\0" in value:
            continue
        found[name] = f"{directory}/{name}" if name in file_names or name in _RUNNER_FILES else value
    # every job has a container of its own; the custom executor can only call that shared (fact 22 of the contract)
    found.pop("CI_SHARED_ENVIRONMENT", None)
    found["CI_DISPOSABLE_ENVIRONMENT"] = "true"
    # meant for the driver and for nobody else: every service's variables with the job's secrets in them
    found.pop("CI_JOB_SERVICES", None)
    return tuple(found.items())


def flag(job_variables: Mapping[str, str], name: str) -> bool:
    """Tell whether a feature flag or CI_DEBUG_* variable is on, as the runner reads booleans."""
    return job_variables.get(name, "").lower() in ("1", "t", "true")

"""The variables of a job as gitlab-runner composes them, and the environment that a driver's program gets of them."""

import json
import posixpath
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from tests.support.gitlab_shell import Variable

# the flags that a driver or its scripts may look at, with their defaults in 19.4
_FLAGS = {
    "FF_NETWORK_PER_BUILD": False, "FF_USE_INIT_WITH_DOCKER_EXECUTOR": False, "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR": False,
    "FF_USE_NATIVE_CONTAINER_STOP": False, "FF_POSIXLY_CORRECT_ESCAPES": False, "FF_ENABLE_BASH_EXIT_CODE_CHECK": False,
    "FF_USE_LEGACY_BASH_EVAL": False, "FF_SCRIPT_SECTIONS": False, "FF_TIMESTAMPS": True, "FF_HASH_CACHE_KEYS": False,
    "FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY": True, "FF_ENABLE_JOB_CLEANUP": False,
}  # fmt: skip

_REFERENCE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z0-9_]+|[*#$@!?-]))")


def compose(
    payload: dict[str, Any],
    *,
    runner: Mapping[str, str],
    builds_dir: str,
    project_dir: str,
    status: str,
    concurrent: tuple[int, int],
    token: str,
) -> tuple[Variable, ...]:
    """Return all variables in their order, later ones winning, expanded; `concurrent` is CI_CONCURRENT_ID and CI_CONCURRENT_PROJECT_ID."""
    given = [
        Variable(each["key"], str(each["value"]), bool(each.get("file")), bool(each.get("raw"))) for each in payload.get("variables") or []
    ]
    chosen = {**{each.key: each.value for each in given}, **runner}
    flags = [Variable(key, "true" if _on(chosen.get(key, str(default))) else "false") for key, default in _FLAGS.items()]
    image = (payload.get("image") or {}).get("name")
    defaults = [
        *([Variable("CI_JOB_IMAGE", image)] if image else []),
        Variable("CI_RUNNER_SHORT_TOKEN", short(token)),
        *(Variable(key, value) for key, value in runner.items()),
        Variable("CI_BUILDS_DIR", builds_dir), Variable("CI_PROJECT_DIR", project_dir),
        Variable("CI_CONCURRENT_ID", str(concurrent[0])), Variable("CI_CONCURRENT_PROJECT_ID", str(concurrent[1])),
        Variable("CI_SERVER", "yes"), Variable("CI_JOB_STATUS", status), Variable("CI_JOB_TIMEOUT", str(job_timeout_s(payload))),
    ]  # fmt: skip
    network = f"runner-{short(token)}-{payload['job_info']['project_id']}-{concurrent[1]}-{payload['id']}"
    last = [
        Variable("CI_SHARED_ENVIRONMENT", "true"), Variable("CI_RUNNER_VERSION", "19.4.0"), Variable("CI_RUNNER_REVISION", "d79f3e7b"),
        Variable("CI_RUNNER_EXECUTABLE_ARCH", "linux/amd64"), Variable("RUNNER_TEMP_PROJECT_DIR", f"{project_dir}.tmp"),
        *([Variable("CI_BUILD_NETWORK_NAME", network)] if _on(chosen.get("FF_NETWORK_PER_BUILD", "")) else []),
    ]  # fmt: skip
    return expand_all((*flags, *defaults, *given, *last))


def _on(value: str) -> bool:
    return value.lower() in ("true", "1", "t")


def expand_all(variables: tuple[Variable, ...], source: tuple[Variable, ...] | None = None) -> tuple[Variable, ...]:
    """Expand each variable that is not raw, once, by the values as they were before."""
    known = variables if source is None else source
    return tuple(each if each.raw else each._replace(value=expand(each.value, known)) for each in variables)


def expand(text: str, variables: tuple[Variable, ...]) -> str:
    """Replace $NAME and ${NAME}: a file variable by its path, an unknown name by nothing."""
    values = {each.key: each for each in variables}
    temporary = values.get("RUNNER_TEMP_PROJECT_DIR", Variable("", "")).value

    def value(match: re.Match[str]) -> str:
        name = match[1] if match[1] is not None else match[2]
        if name == "$":
            return "$"
        found = values.get(name)
        if found is None:
            return ""
        return posixpath.join(temporary, name) if found.file else found.value

    return _REFERENCE.sub(value, text)


def job_timeout_s(payload: dict[str, Any]) -> int:
    """Return how long the job may take."""
    given = int((payload.get("runner_info") or {}).get("timeout") or 0)
    return given if given > 0 else 7200


def short(token: str) -> str:
    """Return the short form of a runner's token: the first nine characters behind its prefix."""
    return re.sub(r"^(glrt-|t[0-9]_|glcbt-)*", "", token)[:9]


def project_path(payload: dict[str, Any]) -> str:
    """Return `namespace/project` of the repository's URL, or what stands for it when that has no host."""
    url = urllib.parse.urlsplit(payload["git_info"]["repo_url"])
    if not url.hostname:
        return f"project-{payload['job_info']['project_id']}"
    return str(url.path).strip("/").removesuffix(".git")


def services(payload: dict[str, Any], variables: tuple[Variable, ...]) -> str:
    """Return the value of CI_JOB_SERVICES: "" or a list with first aliases only."""
    if not payload.get("services"):
        return ""
    listed: list[dict[str, Any]] = []
    for each in payload["services"]:
        own = tuple(Variable(one["key"], one["value"], raw=bool(one.get("raw"))) for one in each.get("variables") or [])
        expanded = expand_all(own, (*variables, *own))
        aliases = re.split(r"[ ,]+", (each.get("alias") or "").strip())
        listed.append(
            {
                "name": each["name"], "alias": aliases[0], "entrypoint": each.get("entrypoint"), "command": each.get("command"),
                **({"variables": {one.key: one.value for one in expanded}} if expanded else {}),
            }
        )  # fmt: skip
    return encode(listed)


def encode(value: object) -> str:
    """Write JSON as Go's encoder does: no spaces, and <, > and & escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def response(payload: dict[str, Any], variables: tuple[Variable, ...]) -> str:
    """Return the text of JOB_RESPONSE_FILE: names and aliases of images expanded, nothing else."""
    job = json.loads(json.dumps(payload))
    for image in [job.get("image") or {}, *(job.get("services") or [])]:
        for key in ("name", "alias"):
            if image.get(key):
                image[key] = expand(image[key], variables)
    return encode(job) + "\n"


def driver_environment(
    inherited: Mapping[str, str], *, temp_dir: str, job_env: Mapping[str, str], variables: tuple[Variable, ...], job_services: str
) -> dict[str, str]:
    """Return the environment of one call of the driver; of two equal names the later wins. Without a directory its paths are empty."""

    def inside(name: str) -> str:
        return posixpath.join(temp_dir, name) if temp_dir else ""

    environment = dict(inherited)
    environment |= {
        "TMPDIR": temp_dir, "BUILD_FAILURE_EXIT_CODE": "1", "SYSTEM_FAILURE_EXIT_CODE": "2",
        "BUILD_EXIT_CODE_FILE": inside("build_exit_code"), "JOB_RESPONSE_FILE": inside("response.json"),
    }  # fmt: skip
    environment |= job_env
    environment |= {f"CUSTOM_ENV_{each.key}": each.value for each in variables}
    environment["CUSTOM_ENV_CI_JOB_SERVICES"] = job_services
    return environment

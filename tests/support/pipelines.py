"""From .gitlab-ci.yml to the jobs that GitLab would send: includes, defaults, variables, parallel:matrix, and one payload for each job.

Knows the keywords that the templates use. One that it does not know is refused, so that no test passes by leaving it out.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import yaml

from tests.support.gitlab_replay import job_payload

_MATRIX_LIMIT = 200
_GLOBAL = {"default", "include", "stages", "variables", "workflow"}
# GitLab decides by them whether and when a job is sent; runners never see them
_OF_THE_SERVER = {"allow_failure", "environment", "interruptible", "needs", "retry", "rules", "stage", "tags", "when"}
_OF_THE_JOB = {"after_script", "artifacts", "before_script", "cache", "image", "parallel", "script", "services", "variables"}
_OF_DEFAULT = {"after_script", "artifacts", "before_script", "cache", "image", "interruptible", "retry", "services", "tags"}


class Unsupported(ValueError):
    """Not a pipeline, or one with keywords that this reader does not know."""


def jobs(template: str, *, including: str = "", variables: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return the payload of every job, in order. `including` is a .gitlab-ci.yml that includes the template and wins over it;
    `variables` are those of the pipeline itself, which win over both. Raises Unsupported.
    """
    pipeline = merge(_load(template), _load(including) if including else {})
    default = _mapping(pipeline.get("default"), "default")
    _refuse_unknown(default, _OF_DEFAULT, "default")
    found = []
    for name, given in pipeline.items():
        if name in _GLOBAL or name.startswith("."):
            continue
        job = {**default, **_mapping(given, name)}
        _refuse_unknown(job, _OF_THE_JOB | _OF_THE_SERVER, name)
        if "script" not in job:
            raise Unsupported(f"{name}: a job needs a script")
        found += _copies(name, job, _variables(pipeline.get("variables"), "variables"), variables or {})
    if not found:
        raise Unsupported("there is no job")
    return found


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return what GitLab makes of an included file and the one that includes it: tables merge at every depth, all else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def combinations(parallel: Any) -> list[dict[str, str]]:
    """Return the variables of each job that a `parallel:` makes: all combinations of every entry of its matrix, in GitLab's order."""
    if isinstance(parallel, int) and not isinstance(parallel, bool):
        return [{} for _ in range(parallel)]
    entries = _mapping(parallel, "parallel").get("matrix")
    if not isinstance(entries, list) or not entries or len(parallel) != 1:
        raise Unsupported("parallel: is neither a number nor a matrix")
    tables = [{key: value if isinstance(value, list) else [value] for key, value in _mapping(entry, "matrix").items()} for entry in entries]
    count = sum(math.prod(len(values) for values in table.values()) for table in tables)
    if count > _MATRIX_LIMIT:  # before any is made: a few keys are enough for more than fit into memory
        raise Unsupported(f"a matrix makes at most {_MATRIX_LIMIT} jobs, this one {count}")
    return [dict(zip(table, map(str, chosen), strict=True)) for table in tables for chosen in itertools.product(*table.values())]


def _copies(name: str, job: dict[str, Any], common: list[dict[str, Any]], of_pipeline: Mapping[str, str]) -> list[dict[str, Any]]:
    if "parallel" not in job:
        return [_payload(name, job, [*common, *_variables(job.get("variables"), name), *_variables(of_pipeline, "pipeline")])]
    chosen = combinations(job["parallel"])
    found = []
    for number, matrix in enumerate(chosen, 1):
        full = f"{name}: [{', '.join(matrix.values())}]" if matrix else f"{name} {number}/{len(chosen)}"
        node = {"CI_NODE_INDEX": str(number), "CI_NODE_TOTAL": str(len(chosen))}
        # a job's own variables lose against its place in the matrix, which loses against the pipeline's
        own = [*_variables(job.get("variables"), name), *_variables(matrix, "matrix"), *_variables(of_pipeline, "pipeline")]
        found.append(_payload(full, job, [*_variables(node, "node"), *common, *own]))
    return found


def _payload(name: str, job: dict[str, Any], variables: list[dict[str, Any]]) -> dict[str, Any]:
    stage = str(job.get("stage", "test"))
    predefined = _variables({"CI_JOB_NAME": name, "CI_JOB_STAGE": stage}, "predefined")
    payload = job_payload(
        script=[*_script(job.get("before_script", []), name), *_script(job["script"], name)],
        after_script=_script(job.get("after_script", []), name),
        image=_image(job.get("image", ""), name),
        services=[_image(each, name) for each in job.get("services") or []],
        variables=[*predefined, *variables],
        artifacts=_artifacts(_mapping(job.get("artifacts"), name), name),
        cache=_caches(job.get("cache"), name),
    )
    payload["job_info"] = {**payload["job_info"], "name": name, "stage": stage}
    return payload


def _script(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise Unsupported(f"{name}: a script is a text or a list of texts, not {value!r}")
    return [line for item in value for line in _script(item, name)]


def _variables(value: Any, name: str) -> list[dict[str, Any]]:
    found = []
    for key, given in _mapping(value, f"{name}: variables").items():
        table = given if isinstance(given, dict) else {"value": given}
        _refuse_unknown(table, {"description", "expand", "options", "value"}, f"{name}: {key}")
        if not isinstance(table.get("value"), str | int | float) or isinstance(table["value"], bool):
            raise Unsupported(f"{name}: variable {key} is not a text or a number")
        found.append({"key": key, "value": str(table["value"]), "public": True, "raw": not table.get("expand", True)})
    return found


def _image(value: Any, name: str) -> dict[str, Any]:
    given = {"name": value} if isinstance(value, str) else _mapping(value, f"{name}: image")
    _refuse_unknown(given, {"alias", "command", "docker", "entrypoint", "name", "pull_policy", "variables"}, f"{name}: image")
    image: dict[str, Any] = {"name": given.get("name", ""), "executor_opts": {}}
    for key in ("command", "entrypoint", "pull_policy"):
        if key in given:
            image[key] = [given[key]] if isinstance(given[key], str) else given[key]
    if "alias" in given:
        image["alias"] = given["alias"]
    if "docker" in given:
        _refuse_unknown(given["docker"], {"platform", "user"}, f"{name}: docker")
        image["executor_opts"] = {"docker": given["docker"]}
    if "variables" in given:
        image["variables"] = _variables(given["variables"], name)
    return image


def _artifacts(given: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    _refuse_unknown(given, {"exclude", "expire_in", "name", "paths", "reports", "untracked", "when"}, f"{name}: artifacts")
    found = []
    if given.get("paths") or given.get("untracked"):
        archive = {key: value for key, value in given.items() if key != "reports"}
        found.append({"when": "on_success", **archive, "artifact_type": "archive", "artifact_format": "zip"})
    for kind, paths in _mapping(given.get("reports"), f"{name}: reports").items():
        report = {"name": f"{kind}.xml", "paths": _script(paths, name), "when": "always", "artifact_type": kind, "artifact_format": "gzip"}
        found.append({**report, **{key: given[key] for key in ("expire_in",) if key in given}})
    return found


def _caches(value: Any, name: str) -> list[dict[str, Any]]:
    found = []
    for given in value if isinstance(value, list) else [value] if value else []:
        _refuse_unknown(given, {"fallback_keys", "key", "paths", "policy", "untracked", "when"}, f"{name}: cache")
        if not isinstance(given.get("key", ""), str):
            raise Unsupported(f"{name}: the cache's key is not a text")
        found.append({"key": "default", "policy": "pull-push", "when": "on_success", **given})
    return found


def _load(text: str) -> dict[str, Any]:
    try:
        return _mapping(yaml.safe_load(text), "the file")
    except yaml.YAMLError as e:
        raise Unsupported(f"not YAML: {e}") from e


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Unsupported(f"{name} is not a table: {value!r}")
    return value


def _refuse_unknown(given: Any, known: set[str], name: str) -> None:
    unknown = sorted(_mapping(given, name).keys() - known)
    if unknown:
        raise Unsupported(f"{name}: this reader does not know {', '.join(unknown)}")

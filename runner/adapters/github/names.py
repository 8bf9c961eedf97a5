"""By which names services are reached: the runner does not send what the workflow calls them, so it is looked up or guessed.

The exact way is the runner's own diagnostic log, in which the Worker writes the whole job message, with the services in order
(Worker.cs; contracts: issue 2783 of actions/runner). What the job's containers can write to is not read.
"""

from __future__ import annotations

import os

from runner.adapters.github import says

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runner.adapters.github.message import Container
    from runner.adapters.github.options import Options

_KEY = '"jobServiceContainers":'
_VARIABLE = "DOCKLESS_SERVICE_NAME"
_LARGEST_LOG = 64 * 1024**2
_RESERVED = ("localhost", "ip6-localhost", "ip6-loopback", "job")


def assign(services: Sequence[Container], options: Sequence[Options], *, root: str) -> list[tuple[str, ...]]:
    """Return the names of each service, the best one first: two services never share one, and each has at least `service-N`.

    `root` is the runner's own directory.
    """
    exact = _from_log(services, root)
    bases = [_base(service.image) for service in services]
    taken: set[str] = set(_RESERVED)
    found = []
    for number, (service, chosen) in enumerate(zip(services, options, strict=True)):
        base = bases[number]
        own = dict(service.environment).get(_VARIABLE, "")
        guesses = [base] if bases.count(base) == 1 else [f"{base}-{bases[:number].count(base)}", base]
        wanted = [service.name, exact[number], own, *chosen.names, *guesses, f"service-{number}"]
        names = tuple(name for name in dict.fromkeys(wanted) if _is_host_name(name) and name.lower() not in taken)
        taken.update(name.lower() for name in names)
        found.append(names)
    return found


def _base(image: str) -> str:
    """Return what an image is called without registry, organisation, tag and digest: bitnami/kafka:3 is kafka."""
    return image.partition("@")[0].rstrip("/").rpartition("/")[2].partition(":")[0].lower()


def _is_host_name(name: str) -> bool:
    plain = name.replace("_", "a").replace("-", "a").replace(".", "a")
    return 0 < len(name) <= 63 and plain.isascii() and plain.isalnum() and name[0].isalnum() and name[-1].isalnum()


def _from_log(services: Sequence[Container], root: str) -> list[str]:
    """Return the services' names as the runner's log has them, "" for each where it does not say."""
    none = [""] * len(services)
    if not services:
        return none
    path = _newest_log(f"{root}/_diag")
    if not path:
        return none
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_LARGEST_LOG)
    except OSError:
        return none
    return match(services, read(text))


def _newest_log(directory: str) -> str:
    try:
        names = [name for name in os.listdir(directory) if name.startswith("Worker_") and name.endswith(".log")]
        return max((f"{directory}/{name}" for name in names), key=lambda path: os.stat(path).st_mtime, default="")
    except OSError:
        return ""


def read(text: str) -> list[tuple[str, str]]:
    """Return (name, image) of the services in the last job message of a Worker's log; the image is "" where it is an expression."""
    import json  # for jobs with services

    at = text.rfind(_KEY)
    if at < 0:
        return []
    rest = text[at + len(_KEY) :].lstrip()
    try:
        token = json.JSONDecoder().raw_decode(rest)[0]
    except ValueError:
        says.warning("the runner's log has no service names that can be read: services are called after their images")
        return []
    return [(_literal(name), _image(value)) for name, value in _pairs(token) if _literal(name)]


def match(services: Sequence[Container], known: list[tuple[str, str]]) -> list[str]:
    """Pair services with names, both in order; those whose image was empty are in the log only. "" where nothing fits."""
    if len(known) == len(services):
        fits = all(image in ("", service.image) for (_, image), service in zip(known, services, strict=True))
        return [name for name, _ in known] if fits else [""] * len(services)
    rest, found = list(known), []
    for service in services:
        at = next((index for index, (_, image) in enumerate(rest) if image == service.image), None)
        found.append("" if at is None else rest[at][0])
        rest = rest if at is None else rest[at + 1 :]
    return found


# template tokens (Sdk/DTObjectTemplating): {"type": 2, "map": [{"Key": …, "Value": …}]} is a mapping, plain texts and {"lit": …} are texts


def _folded(value: Any) -> dict[str, Any]:
    return {str(key).lower(): item for key, item in value.items()} if isinstance(value, dict) else {}


def _pairs(token: Any) -> list[tuple[Any, Any]]:
    table = _folded(token)
    if isinstance(table.get("map"), list):
        rows = [_folded(row) for row in table["map"]]
        return [(row.get("key"), row.get("value")) for row in rows]
    return list(token.items()) if isinstance(token, dict) and "type" not in table else []


def _literal(token: Any) -> str:
    value = token if isinstance(token, str) else _folded(token).get("lit")
    return value if isinstance(value, str) else ""


def _image(token: Any) -> str:
    literal = _literal(token)  # `redis: redis:7` is short for a mapping with an image
    found = literal or next((_literal(value) for key, value in _pairs(token) if _literal(key) == "image"), "")
    return found.removeprefix("docker://")

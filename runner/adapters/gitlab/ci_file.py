"""The images that a .gitlab-ci.yml names, as far as the file itself says: pure, for warming a machine before its first job.

Follows GitLab's YAML reference: image and services of jobs, hidden jobs and defaults; extends, !reference, variables, parallel:matrix.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from runner import config_yaml
from runner.errors import UserError
from runner.image import images, reference

_NO_JOBS = (
    "after_script", "before_script", "cache", "default", "image", "include", "services", "spec", "stages", "types", "variables", "workflow",
)  # fmt: skip
_KEYS = ("image", "services", "variables", "parallel")  # of a job: what is read here, and so what has to be inherited
_DEPTH = 11  # of extends, !reference and variables within variables; GitLab's own limits are 11, 10 and less
_NODES = 10_000  # to look at in one job, so that references to references end
_COMBINATIONS = 200  # of one matrix, GitLab's limit
_LONGEST = 1000  # of a name, or a variable's value that may be part of one
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)


class Wanted(NamedTuple):
    """One image; `platform` "" is the machine's."""

    image: str
    platform: str = ""


class Found(NamedTuple):
    """What a file names: images, each once and in its order; sentences about what is left out; names of what it includes."""

    wanted: tuple[Wanted, ...]
    left_out: tuple[str, ...]
    includes: tuple[str, ...]


class _Reference(NamedTuple):
    """A `!reference [job, key, …]`; any other tag has no path and leads nowhere."""

    tag: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.tag} [{', '.join(self.path)}]" if self.path else self.tag


class _Scope(NamedTuple):
    """Where images stand, and each set of variables that holds there."""

    place: str
    nodes: tuple[Any, ...]
    variables: list[dict[str, str]]


class _Problem(NamedTuple):
    """What stands in the place of an image and is none."""

    sentence: str


def read(raw: bytes, where: str) -> Found:
    """Return what a file names; UserError for what is not YAML, or no pipeline. `where` is named in errors."""
    document = _load(raw, where)
    wanted: dict[tuple[str, str], Wanted] = {}
    left_out: dict[str, str] = {}  # what is written -> why it cannot be had
    expanded: set[str] = set()  # ... and what could be somewhere: a hidden job may leave a variable to those that extend it
    try:
        for scope in _scopes(document):
            for written in _images(scope.nodes, document):
                if isinstance(written, _Problem):
                    left_out.setdefault(written.sentence, f"{scope.place}: {written.sentence}")
                    continue
                for variables in scope.variables:
                    try:
                        one = Wanted(_expand(written.image, variables), _expand(written.platform, variables))
                        key = reference.canonical(one.image), one.platform
                    except UserError as e:
                        left_out.setdefault(written.image, f"{scope.place}: {e.message}")
                        continue
                    expanded.add(written.image)
                    if one.image != images.TOOLBOX:
                        wanted.setdefault(key, one)
    except RecursionError as e:
        raise UserError(f"{where} is nested too deeply", "no pipeline is that deep") from e
    sentences = tuple(_shown(sentence) for text, sentence in left_out.items() if text not in expanded)
    return Found(tuple(wanted.values()), sentences, tuple(_shown(name) for name in _includes(document.get("include"))))


# the file


class _Loader(config_yaml.BoundedLoader):
    """One that reads GitLab's own tags, and does not stumble over others."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> _Reference:
    if suffix == "reference" and isinstance(node, yaml.SequenceNode):
        return _Reference("!reference", tuple(str(item) for item in loader.construct_sequence(node, deep=True)))
    return _Reference(f"!{suffix}")


_Loader.add_multi_constructor("!", _tagged)


def _load(raw: bytes, where: str) -> dict[str, Any]:
    with config_yaml.explained(where):
        documents = list(yaml.load_all(raw, Loader=_Loader))
    if len(documents) > 1 and isinstance(documents[0], dict) and "spec" in documents[0]:
        documents = documents[1:]  # the header of a file that takes inputs
    document = documents[0] if documents else {}
    if not isinstance(document, dict):
        raise UserError(f"{where} is neither a pipeline of GitLab nor a list of images", "a list has one image a line, and nothing else")
    return {str(key): value for key, value in document.items()}


def _scopes(document: Mapping[str, Any]) -> Iterator[_Scope]:
    everywhere = _variables(document.get("variables"), document)
    default = _table(document.get("default"), document)
    inherited = {key: default.get(key, document.get(key)) for key in ("image", "services")}
    yield _Scope("default", tuple(inherited.values()), [everywhere])
    for name, value in document.items():
        if name in _NO_JOBS or not isinstance(value, dict):
            continue
        job = _job(name, document, _DEPTH)
        variables = {**everywhere, **_variables(job.get("variables"), document)}
        nodes = tuple(job.get(key, inherited[key]) for key in ("image", "services"))
        yield _Scope(f"job {name}", nodes, [{**variables, **combination} for combination in _matrix(job.get("parallel"), document)])


def _job(name: str, document: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return what is read of a job, after what it extends: tables are merged, everything else is replaced."""
    own = document.get(name)
    if not isinstance(own, dict) or not depth:
        return {}
    parents = own.get("extends", [])
    merged: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents if isinstance(parents, list) else []:
        _merge(merged, _job(str(parent), document, depth - 1))
    _merge(merged, {key: own[key] for key in _KEYS if key in own})
    return merged


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        lower = below.get(key)
        below[key] = {**lower, **value} if isinstance(lower, dict) and isinstance(value, dict) else value


def _resolve(node: Any, document: Mapping[str, Any], depth: int = _DEPTH) -> Any:
    """Return what a !reference stands for, itself when that is not in the file."""
    if not isinstance(node, _Reference) or not node.path or not depth:
        return node
    found: Any = document
    for key in node.path:
        found = _resolve(found, document, depth - 1)
        if not isinstance(found, dict) or key not in found:
            return node
        found = found[key]
    return _resolve(found, document, depth - 1)


# what stands there


def _images(nodes: tuple[Any, ...], document: Mapping[str, Any]) -> Iterator[Wanted | _Problem]:
    """Yield the images of an `image:`, a `services:` and lists within them, their variables not yet expanded."""
    waiting = [iter(nodes)]
    for _ in range(_NODES):
        if not waiting:
            return
        try:
            node = _resolve(next(waiting[-1]), document)
        except StopIteration:
            waiting.pop()
            continue
        match node:
            case None:
                pass
            case str():
                yield Wanted(node)
            case {"name": str(name)}:
                yield Wanted(name, str(_table(node.get("docker"), document).get("platform") or ""))
            case _Reference():
                yield _Problem(f"{node} is not in this file")
            case list() if len(waiting) <= _DEPTH:
                waiting.append(iter(node))
            case _:
                yield _Problem(f"{str(node)[:60]!r} is no image")


def _table(node: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    node = _resolve(node, document)
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}


def _variables(node: Any, document: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in _table(node, document).items():
        value = _resolve(value, document)
        text = _text(value.get("value") if isinstance(value, dict) else value)
        if text is not None:
            found[name] = text
    return found


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or len(str(value)) > _LONGEST:
        return None
    return str(value)


def _matrix(node: Any, document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the variables of each job that a `parallel:` makes; one without any where it has no matrix."""
    entries = _resolve(_table(node, document).get("matrix"), document)
    found: list[dict[str, str]] = []
    for entry in entries if isinstance(entries, list) else []:
        table = _table(entry, document)
        choices = [_choices(_resolve(value, document)) for value in table.values()]
        found += [dict(zip(table, chosen, strict=True)) for chosen in itertools.islice(itertools.product(*choices), _COMBINATIONS)]
    return found[:_COMBINATIONS] or [{}]


def _choices(value: Any) -> list[str]:
    return [text for item in (value if isinstance(value, list) else [value]) if (text := _text(item)) is not None]


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $NAME and ${NAME}, also in what they stand for; UserError names the one that is not known."""
    out = text
    for _ in range(_DEPTH):
        missing = next((name for match in _VARIABLE.finditer(out) if (name := match[1] or match[2]) not in variables), "")
        if missing or "$" not in out or len(out) > _LONGEST:
            break
        out = _VARIABLE.sub(lambda match: variables[match[1] or match[2]], out)
    if missing:
        raise UserError(f"{text[:80]!r} is left out: {missing[:80]} is not set in this file")
    if "$" in out or len(out) > _LONGEST:
        raise UserError(f"{text[:80]!r} is left out: it cannot be expanded")
    return out


def _includes(node: Any) -> Iterator[str]:
    """Yield what `include:` names: files, URLs, templates, components."""
    for entry in node if isinstance(node, list) else [node]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            named = next(
                (entry[key] for key in ("local", "file", "remote", "template", "component", "project", "artifact") if key in entry), "?"
            )
            yield from (str(name) for name in (named if isinstance(named, list) else [named]))
        elif entry is not None:
            yield str(entry)


def _shown(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:300])

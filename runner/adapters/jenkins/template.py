"""Go templates as `docker inspect --format` takes them, as far as Pipelines write them: fields, json, index, join, println and range."""

from __future__ import annotations

import json
from typing import Any

from runner import errors

_DEEPEST = 8


def render(text: str, value: Any) -> str:
    """Return what a template makes of a value. UserError for what is no template of the kind above, or names no field."""
    rest = _split(text)
    out = _block(rest, value, depth=0)
    if rest:
        raise _bad(text, "{{end}} without a beginning")
    return out


def _split(text: str) -> list[tuple[bool, str]]:
    """Return the template's pieces in order, each with whether it is an action. Its list is eaten from the front."""
    pieces = []
    rest = text
    while rest:
        before, begins, after = rest.partition("{{")
        if begins and after.startswith("- "):
            before, after = before.rstrip(), after[1:]
        if before:
            pieces.append((False, before))
        if not begins:
            break
        action, ends, rest = after.partition("}}")
        if not ends:
            raise _bad(text, "{{ without }}")
        if action.endswith(" -"):
            action, rest = action[:-1], rest.lstrip()
        pieces.append((True, action.strip()))
    return pieces


def _block(pieces: list[tuple[bool, str]], value: Any, *, depth: int) -> str:
    """Render up to the {{end}} of a range, or everything."""
    out = []
    while pieces:
        is_action, text = pieces.pop(0)
        if not is_action:
            out.append(text)
        elif text == "end":
            if depth:
                return "".join(out)
            pieces.insert(0, (is_action, text))
            return "".join(out)
        elif text.startswith("range"):
            if depth == _DEEPEST:
                raise _bad(text, "too many ranges in each other")
            body = list(pieces)
            items = _field(text.removeprefix("range").strip(), value)
            values = list(items.values()) if isinstance(items, dict) else _list(items, text)
            for item in values:
                pieces[:] = body
                out.append(_block(pieces, item, depth=depth + 1))
            if not values:
                _skip(pieces)
        else:
            out.append(_action(text, value))
    if depth:
        raise _bad("{{range}}", "it has no {{end}}")
    return "".join(out)


def _skip(pieces: list[tuple[bool, str]]) -> None:
    """Drop everything up to the {{end}} of a range over nothing."""
    depth = 1
    while pieces and depth:
        is_action, text = pieces.pop(0)
        if is_action:
            depth += text.startswith("range")
            depth -= text == "end"
    if depth:
        raise _bad("{{range}}", "it has no {{end}}")


def _action(text: str, value: Any) -> str:
    verb, _, rest = text.partition(" ")
    match verb:
        case "json":
            return json.dumps(_field(rest.strip(), value), separators=(",", ":"))
        case "println":
            return _shown(_field(rest.strip(), value)) + "\n"
        case "index":
            path, key = _two(rest, text)
            return _shown(_at(_field(path, value), key))
        case "join":
            path, separator = _two(rest, text)
            return separator.join(_shown(item) for item in _list(_field(path, value), text))
    return _shown(_field(text, value))


def _two(rest: str, text: str) -> tuple[str, str]:
    path, _, argument = rest.strip().partition(" ")
    try:
        argument = json.loads(argument)
    except (ValueError, RecursionError) as e:
        raise _bad(text, "it needs a field and a value") from e
    return path, str(argument)


def _list(value: Any, text: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise _bad(text, "it needs a list")
    return value or []


def _at(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key, "")
    if isinstance(value, list) and key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(value):
        return value[int(key)]
    raise _bad(key, "there is no such entry")


def _field(path: str, value: Any) -> Any:
    """Follow .A.B.C down from a value."""
    if not path.startswith("."):
        raise _bad(path, "only fields, json, index, join, println and range are served by dockless")
    for name in path[1:].split(".") if path != "." else ():
        if not isinstance(value, dict) or name not in value:
            raise errors.UserError(f"template {path}: there is no field {name!r}")
        value = value[name]
    return value


def _shown(value: Any) -> str:
    """Write a value as Go's fmt does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<no value>"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_shown(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_shown(item) for item in value) + "]"
    return str(value)


def _bad(text: str, why: str) -> errors.UserError:
    return errors.UserError(f"template {text[:80]!r} cannot be used: {why}")

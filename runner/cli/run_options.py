"""The options of `dockless run`, declared once: for the parser of the hot path, for --help and for shell completion."""

from __future__ import annotations

import os

from runner import errors, quantities
from runner.kernel import files
from runner.model import Limits, RunRequest
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    _T = TypeVar("_T")


class Option(NamedTuple):
    """One option. `value` is the placeholder of its value, "" for a switch; `many` may be given several times."""

    names: tuple[str, ...]
    value: str
    help: str
    many: bool = False
    choices: tuple[str, ...] = ()

    def key(self) -> str:
        """Return the name that the parsed value goes by."""
        return next(name for name in self.names if name.startswith("--"))[2:]


OPTIONS = (
    Option(("--image",), "IMAGE", "the image: a reference, oci:DIR[:TAG], docker-archive:FILE or toolbox (the host's own /usr)"),
    Option(("-e", "--env"), "NAME[=VALUE]", "set an environment variable, or pass on the caller's", many=True),
    Option(("--env-file",), "FILE", "set the variables of a file, one NAME=VALUE a line", many=True),
    Option(("-v", "--volume"), "SRC:DST[:ro]", "show a directory of the host, or a named volume, in the container", many=True),
    Option(("-w", "--workdir"), "DIR", "the working directory"),
    Option(("-u", "--user"), "USER[:GROUP]", "the user, by name or number"),
    Option(("--network",), "MODE", "a network of its own with a way out, or none", choices=("default", "none")),
    Option(("--pull",), "POLICY", "when to fetch the image", choices=("always", "if-not-present", "missing", "never")),
    Option(("-m", "--memory"), "SIZE", "the memory limit, such as 512m or 2g"),
    Option(("--cpus",), "N", "the limit of processor time, in cores"),
    Option(("--pids", "--pids-limit"), "N", "the limit of processes"),
    Option(("--entrypoint",), "PROGRAM", 'run this instead of the image\'s entrypoint; "" for none'),
    Option(("-h", "--hostname"), "NAME", "the host name"),
    Option(("--platform",), "OS/ARCH", "the platform, where an image has several"),
    Option(("--build-user",), "NAME", "whose slice of ids and whose named volumes to use (default: local)"),
    Option(("--docker",), "", "give the container a Docker API of its own, at DOCKER_HOST and /var/run/docker.sock"),
    Option(("--init",), "", "run a small init as PID 1 that reaps and passes signals on"),
    Option(("-t", "--tty"), "", "give the container a terminal (the default when stdin and stdout are one)"),
    Option(("-i", "--interactive"), "", "accepted as podman's: stdin is always passed on"),
    Option(("--rm",), "", "accepted as podman's: nothing is ever left behind"),
)

_BY_NAME = {name: option for option in OPTIONS for name in option.names}


def parse(arguments: list[str], environ: Mapping[str, str]) -> RunRequest:
    """Parse the words after `run`. UserError, with the nearest option, for what is not understood."""
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError as e:  # a container's process is described in JSON, which has no other bytes
        raise errors.UserError("run: an argument is not UTF-8", "pass such bytes by a file or stdin") from e
    found: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        _take(word, rest, found)
    if "image" not in found and rest and "--" not in arguments[: len(arguments) - len(rest)]:
        found["image"] = [rest.pop(0)]  # podman's order: run IMAGE COMMAND
    return _request(found, tuple(rest), environ)


def wants_help(arguments: list[str]) -> bool:
    """Tell whether --help stands among the options, and not in the container's command."""
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        word = rest.pop(0)
        if word == "--help":
            return True
        try:
            _take(word, rest, {})
        except errors.UserError:
            return False
    return False


def _take(word: str, rest: list[str], found: dict[str, list[str]]) -> None:
    name, has_value, value = word.partition("=")
    if not word.startswith("--"):
        name, value = word[:2], word[2:]
        switch = _BY_NAME.get(name)
        if switch and not switch.value and value and not value.startswith("="):
            found[switch.key()] = ["true"]
            _take(f"-{value}", rest, found)  # -it, -itv SRC:DST
            return
        has_value, value = value[:1], value.removeprefix("=")
    option = _BY_NAME.get(name)
    if option is None:
        import difflib  # only who misspelt waits for it

        begun = [known for known in _BY_NAME if len(name) > 2 and (known.startswith(name) or name.startswith(known))]
        near = [known for known in begun if len(known) > 2] or difflib.get_close_matches(name, _BY_NAME, 1)
        raise errors.UserError(f"run: there is no option {name}", f"did you mean {near[0]}?" if near else "see `dockless run --help`")
    if not option.value:
        if has_value and value not in ("true", "false"):
            raise errors.UserError(f"run: option {name} takes no value", f"write {name} alone")
        if value != "false":
            found[option.key()] = ["true"]
        return
    if not (has_value or value):
        if not rest:
            raise errors.UserError(f"run: option {name} needs a value", f"write {name} {option.value}")
        value = rest.pop(0)
    if option.choices and value not in option.choices:
        raise errors.UserError(f"run: {name} {value} is not known", f"choose one of {', '.join(option.choices)}")
    if option.many:
        found.setdefault(option.key(), []).append(value)
    else:
        found[option.key()] = [value]


def _request(found: dict[str, list[str]], argv: tuple[str, ...], environ: Mapping[str, str]) -> RunRequest:
    def one(key: str) -> str:
        return found.get(key, [""])[0]

    pull = one("pull")
    entrypoint = found.get("entrypoint")
    return RunRequest(
        image=one("image"),
        argv=argv,
        env=_environment(found, environ),
        volumes=tuple(found.get("volume", ())),
        cwd=one("workdir"),
        user=one("user"),
        network=one("network"),
        pull="if-not-present" if pull == "missing" else pull,
        limits=_limits(one("memory"), one("cpus"), one("pids")),
        terminal="tty" in found or ("interactive" not in found and os.isatty(0) and os.isatty(1)),
        init="init" in found,
        docker="docker" in found,
        hostname=one("hostname"),
        build_user=one("build-user"),
        entrypoint=None if entrypoint is None else (entrypoint[0],),
        platform=one("platform"),
    )


def _environment(found: dict[str, list[str]], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    entries = []
    for path in found.get("env-file", ()):
        try:
            text = files.read(path, limit_bytes=1024**2).decode()
        except OSError as e:
            raise errors.UserError(f"run: env file {path} cannot be read: {e.strerror}", "check the path and its permissions") from e
        except UnicodeDecodeError as e:
            raise errors.UserError(f"run: env file {path} is not UTF-8", "write one NAME=VALUE a line, in UTF-8") from e
        lines = [line.lstrip().removesuffix("\r") for line in text.split("\n")]
        entries += [line for line in lines if line and not line.startswith("#")]
    entries += found.get("env", [])
    result = []
    for entry in entries:
        name, has_value, value = entry.partition("=")
        if not name or "\0" in entry:
            raise errors.UserError(f"run: {entry!r} is no environment variable", "write NAME=VALUE")
        if has_value:
            result.append((name, value))
        elif name in environ:
            result.append((name, environ[name]))
    return tuple(result)


def _limits(memory: str, cpus: str, pids: str) -> Limits:
    def parsed(option: str, text: str, parse: Callable[[str], _T], none: _T) -> _T:
        if not text:
            return none
        try:
            return parse(text)
        except ValueError as e:
            raise errors.UserError(f"run: {option} {text} cannot be used", str(e)) from e

    return Limits(
        parsed("--memory", memory, quantities.parse_size, 0),
        parsed("--cpus", cpus, quantities.parse_cpus, 0.0),
        parsed("--pids", pids, quantities.parse_count, 0),
    )

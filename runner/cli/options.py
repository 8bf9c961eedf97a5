"""Options of the hot commands, declared once for each: for the parser without click, for --help and for shell completion."""

from __future__ import annotations

from runner import errors, quantities
from runner.kernel import files
from runner.model import Limits
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


class Table(NamedTuple):
    """The options of one command, by which it is called in messages."""

    command: str
    options: tuple[Option, ...]

    def named(self, name: str) -> Option | None:
        """Return the option of a name such as "-e", None if there is none."""
        return next((option for option in self.options if name in option.names), None)

    def names(self) -> list[str]:
        """Return all names of all options, in their order."""
        return [name for option in self.options for name in option.names]


def parse(table: Table, arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Parse the words after a command into what each option was given and the words of the container's command.

    Without --image, and without "--" before it, the first word that is no option is the image, as in podman's `run IMAGE COMMAND`.
    UserError, with the nearest option, for what is not understood.
    """
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError as e:  # a container's process is described in JSON, which has no other bytes
        raise errors.UserError(f"{table.command}: an argument is not UTF-8", "pass such bytes by a file or stdin") from e
    found: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        _take(table, word, rest, found)
    if "image" not in found and rest and "--" not in arguments[: len(arguments) - len(rest)]:
        found["image"] = [rest.pop(0)]
    return found, rest


def wants_help(table: Table, arguments: list[str]) -> bool:
    """Tell whether --help stands among the options, and not in the container's command."""
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        word = rest.pop(0)
        if word == "--help":
            return True
        try:
            _take(table, word, rest, {})
        except errors.UserError:
            return False
    return False


def _take(table: Table, word: str, rest: list[str], found: dict[str, list[str]]) -> None:
    name, has_value, value = word.partition("=")
    if not word.startswith("--"):
        name, value = word[:2], word[2:]
        switch = table.named(name)
        if switch and not switch.value and value and not value.startswith("="):
            found[switch.key()] = ["true"]
            _take(table, f"-{value}", rest, found)  # -it, -itv SRC:DST
            return
        has_value, value = value[:1], value.removeprefix("=")
    option = table.named(name)
    if option is None:
        import difflib  # only who misspelt waits for it

        begun = [known for known in table.names() if len(name) > 2 and (known.startswith(name) or name.startswith(known))]
        near = [known for known in begun if len(known) > 2] or difflib.get_close_matches(name, table.names(), 1)
        raise errors.UserError(
            f"{table.command}: there is no option {name}", f"did you mean {near[0]}?" if near else f"see `dockless {table.command} --help`"
        )
    if not option.value:
        if has_value and value not in ("true", "false"):
            raise errors.UserError(f"{table.command}: option {name} takes no value", f"write {name} alone")
        if value != "false":
            found[option.key()] = ["true"]
        return
    if not (has_value or value):
        if not rest:
            raise errors.UserError(f"{table.command}: option {name} needs a value", f"write {name} {option.value}")
        value = rest.pop(0)
    if option.choices and value not in option.choices:
        raise errors.UserError(f"{table.command}: {name} {value} is not known", f"choose one of {', '.join(option.choices)}")
    if option.many:
        found.setdefault(option.key(), []).append(value)
    else:
        found[option.key()] = [value]


def environment(table: Table, found: dict[str, list[str]], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables of --env-file and --env, in this order; those without a value are the caller's. UserError for what is none."""
    entries = []
    for path in found.get("env-file", ()):
        try:
            text = files.read(path, limit_bytes=1024**2).decode()
        except OSError as e:
            raise errors.UserError(
                f"{table.command}: env file {path} cannot be read: {e.strerror}", "check the path and its permissions"
            ) from e
        except UnicodeDecodeError as e:
            raise errors.UserError(f"{table.command}: env file {path} is not UTF-8", "write one NAME=VALUE a line, in UTF-8") from e
        lines = [line.lstrip().removesuffix("\r") for line in text.split("\n")]
        entries += [line for line in lines if line and not line.startswith("#")]
    entries += found.get("env", [])
    result = []
    for entry in entries:
        name, has_value, value = entry.partition("=")
        if not name or "\0" in entry:
            raise errors.UserError(f"{table.command}: {entry!r} is no environment variable", "write NAME=VALUE")
        if has_value:
            result.append((name, value))
        elif name in environ:
            result.append((name, environ[name]))
    return tuple(result)


def limits(table: Table, found: dict[str, list[str]]) -> Limits:
    """Return what --memory, --cpus and --pids say. UserError for what cannot be used."""

    def parsed(option: str, parse: Callable[[str], _T], none: _T) -> _T:
        text = found.get(option[2:], [""])[0]
        if not text:
            return none
        try:
            return parse(text)
        except ValueError as e:
            raise errors.UserError(f"{table.command}: {option} {text} cannot be used", str(e)) from e

    return Limits(
        parsed("--memory", quantities.parse_size, 0),
        parsed("--cpus", quantities.parse_cpus, 0.0),
        parsed("--pids", quantities.parse_count, 0),
    )

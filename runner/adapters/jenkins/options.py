"""Command lines in docker's order: options, then words; what an option is called and whether it takes a value is data."""

from __future__ import annotations

from runner import errors
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Parsed(NamedTuple):
    """What a command line says: the values of each option by its long name, in order, and the words."""

    values: dict[str, list[str]]
    words: tuple[str, ...]

    def last(self, name: str, default: str = "") -> str:
        """Return the value that counts: the last one."""
        return self.values[name][-1] if name in self.values else default

    def every(self, name: str) -> tuple[str, ...]:
        """Return all values of an option that may be given several times."""
        return tuple(self.values.get(name, ()))

    def has(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return self.last(name, "false") == "true"


class Grammar(NamedTuple):
    """The options of one command: `known` as "-t --tty -e= --env=", a short name before its long one, "=" for a value.

    `refused` gives the reasons for which some are not served. `mixed` lets options stand after words, as docker does where no command of
    the container's own follows.
    """

    verb: str
    known: str
    refused: Mapping[str, str] = {}
    mixed: bool = True

    def _names(self) -> dict[str, tuple[str, bool]]:
        """Return every name with the long one that it means and whether a value follows."""
        found = {}
        short = ""
        for word in self.known.split():
            name, has_value, _ = word.partition("=")
            if not name.startswith("--"):
                short = name
                continue
            found[name] = (name[2:], bool(has_value))
            if short:
                found[short] = (name[2:], bool(has_value))
            short = ""
        return found

    def parse(self, arguments: Sequence[str]) -> Parsed:
        """Read a command line. UserError, in one sentence, for what is not served."""
        names = self._names()
        values: dict[str, list[str]] = {}
        words: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if word == "--":
                words += rest
                break
            if not word.startswith("-") or word == "-":
                words.append(word)
                if not self.mixed:
                    words += rest
                    break
            elif word.startswith("--"):
                self._take_long(word, rest, names, values)
            else:
                self._take_short(word, rest, names, values)
        return Parsed(values, tuple(words))

    def _take_long(self, word: str, rest: list[str], names: Mapping[str, tuple[str, bool]], values: dict[str, list[str]]) -> None:
        name, has_value, value = word.partition("=")
        long, wants_value = self._find(name, names)
        if wants_value and not has_value:
            value = self._next(name, rest)
        elif not has_value:
            value = "true"
        elif not wants_value and value not in ("true", "false"):
            raise errors.UserError(f"{self._command()}: option {name} takes no value")
        values.setdefault(long, []).append(value)

    def _take_short(self, word: str, rest: list[str], names: Mapping[str, tuple[str, bool]], values: dict[str, list[str]]) -> None:
        letters = word[1:]
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            long, wants_value = self._find(name, names)
            if wants_value:
                values.setdefault(long, []).append(letters.removeprefix("=") or self._next(name, rest))
                return
            values.setdefault(long, []).append("true")

    def _command(self) -> str:
        return f"docker {self.verb}".rstrip()

    def _find(self, name: str, names: Mapping[str, tuple[str, bool]]) -> tuple[str, bool]:
        if name in self.refused:
            raise errors.UserError(f"{self._command()}: {name} is refused: {self.refused[name]}")
        if name not in names:
            raise errors.UserError(f"{self._command()}: option {name[:60]} is not served by dockless")
        return names[name]

    def _next(self, name: str, rest: list[str]) -> str:
        if not rest:
            raise errors.UserError(f"{self._command()}: option {name} needs a value")
        return rest.pop(0)


def variables(parsed: Parsed, environ: Mapping[str, str], *, verb: str) -> tuple[tuple[str, str], ...]:
    """Return what --env-file and --env say: NAME=VALUE, or NAME for the caller's own value. UserError for what is no variable."""
    entries: list[str] = []
    for path in parsed.every("env-file"):
        try:
            with open(path, encoding="utf-8") as file:
                lines = [line.strip() for line in file.read(1024**2).split("\n")]
        except (OSError, UnicodeDecodeError) as e:
            raise errors.UserError(f"docker {verb}: env file {path} cannot be read: {getattr(e, 'strerror', None) or e}") from e
        entries += [line for line in lines if line and not line.startswith("#")]
    entries += parsed.every("env")
    found = []
    for entry in entries:
        name, has_value, value = entry.partition("=")
        if not name or "\0" in entry:
            raise errors.UserError(f"docker {verb}: {name[:60]!r} is no name of a variable")
        if has_value:
            found.append((name, value))
        elif name in environ:
            found.append((name, environ[name]))
    return tuple(found)

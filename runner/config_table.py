"""One table of the configuration file: each key is read as what it has to be, and no key is left that nobody asked for."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

from runner.errors import UserError

_TYPES = {  # what a value has to be -> how that is written
    "a text": "put it in quotes",
    "true or false": "write true or false, without quotes",
    "a whole number": "write digits only, without quotes",
    "a size or number": "write it as 512m or 1.5",
    "a list": "begin each entry with a hyphen",
    "a list of texts": "write it as [one, two]",
    "a table of keys": "write its keys below it, each as KEY: VALUE and indented",
}
_T = TypeVar("_T")


def shown(value: Any) -> str:
    """Return a value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


class Table:
    """One mapping of the document, which knows its place and which keys were asked for."""

    def __init__(self, value: Any, file: str, prefix: str = "") -> None:
        self.where = f"{file}: {prefix}"
        self._file, self._prefix = file, prefix
        if not isinstance(value, dict):
            name = prefix.rstrip(".") or "the document"
            raise UserError(f"configuration {file}: {name} is not a table of keys", _TYPES["a table of keys"])
        self._value: dict[str, Any] = {str(key): item for key, item in value.items()}
        self._known: list[str] = []

    def place(self) -> str:
        """Return the file and the key of the table itself."""
        return self.where.removesuffix(".")

    def _get(self, key: str, kinds: tuple[type, ...], default: _T, expected: str) -> Any | _T:
        self._known.append(key)
        value = self._value.get(key)
        if value is None:
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UserError(f"configuration {self.where}{key}: {shown(value)} is not {expected}", _TYPES[expected])
        return value

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        return str(self._get(key, (str, int), default, "a text"))

    def word(self, key: str, default: str) -> str:
        """Return a string that has to say something."""
        text = self.text(key, default)
        if not text.strip():
            raise UserError(f"configuration {self.where}{key}: it is empty", f"leave it out for {default}")
        return text

    def flag(self, key: str) -> bool:
        """Return a boolean, False when absent."""
        return bool(self._get(key, (bool,), False, "true or false"))

    def integer(self, key: str, default: int, *, low: int, high: int) -> int:
        """Return an integer between the bounds."""
        value = int(self._get(key, (int,), default, "a whole number"))
        if not low <= value <= high:
            raise UserError(f"configuration {self.where}{key}: {value} is out of range", f"it is between {low} and {high}")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Return one of the choices, the first when absent."""
        # a bare `off` is a boolean in YAML 1.1
        value = "off" if self._value.get(key) is False and "off" in choices else self.text(key, choices[0])
        self._known.append(key)
        if value not in choices:
            raise UserError(f"configuration {self.where}{key}: {shown(value)} is not known", f"choose one of {', '.join(choices)}")
        return value

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return a list of strings; a single string is a list of one."""
        value: Any = self._get(key, (list, str), list(default), "a list of texts")
        items: list[Any] = [value] if isinstance(value, str) else value
        for item in items:
            if not isinstance(item, (str, int)) or isinstance(item, bool):
                raise UserError(f"configuration {self.where}{key}: {shown(item)} is not a text", "put it in quotes")
        return tuple(str(item) for item in items)

    def convert(self, key: str, function: Callable[[str], _T], default: _T) -> _T:
        """Return a value that `function` understands."""
        value = self._get(key, (str, int, float), None, "a size or number")
        if value is None:
            return default
        try:
            return function(str(value))
        except ValueError as e:
            raise UserError(f"configuration {self.where}{key}: {shown(value)} cannot be used", str(e)) from e

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a table whose keys are free."""
        value: dict[Any, Any] = self._get(key, (dict,), {}, "a table of keys")
        return {str(name): item for name, item in value.items()}

    def table(self, key: str, *, short: str = "") -> "Table":
        """Return a nested table, empty when absent. A single word in its place is the value of its key `short`."""
        if short and isinstance(self._value.get(key), (str, bool)):
            self._known.append(key)
            return Table({short: self._value[key]}, self._file, f"{self._prefix}{key}.")
        return Table(self._get(key, (dict,), {}, "a table of keys"), self._file, f"{self._prefix}{key}.")

    def tables(self, key: str) -> "list[Table]":
        """Return a list of tables."""
        items: list[Any] = self._get(key, (list,), [], "a list")
        return [Table(item, self._file, f"{self._prefix}{key}[{number}].") for number, item in enumerate(items)]

    def names(self) -> list[str]:
        """Return the keys of a table whose keys are free."""
        return list(self._value)

    def refuse_unknown(self) -> None:
        """Raise UserError for a key that nobody asked for, with the nearest one that exists."""
        for key in self._value:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, 1)
                hint = f"did you mean {self._prefix}{near[0]}?" if near else f"known keys: {', '.join(sorted(self._known))}"
                name = key if key.isprintable() and len(key) <= 80 else shown(key)
                raise UserError(f"configuration {self._file}: {self._prefix}{name} is not a setting", hint)

"""JSON for our own files and pipes: the C half of CPython's json module without its Python half, which costs each step 2 ms of imports."""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"


class _Choices:
    """What the scanner asks for, as json.loads chooses it."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")


_scan = make_scanner(_Choices)  # type: ignore[arg-type]  # typeshed wants json's own decoder, the code only these attributes


def loads(text: bytes | str) -> Any:
    """Return the value of a JSON text, bytes being UTF-8; ValueError if it is none."""
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value, end = _scan(text, len(text) - len(text.lstrip(_SPACE)))
    except StopIteration as e:
        raise ValueError(f"no JSON value at character {e.value}") from None
    except SystemError:  # the scanner takes its words for this from json.decoder, and only if somebody has loaded that
        raise ValueError("a JSON string, array or object has no end, or is damaged") from None
    if text[end:].strip(_SPACE):
        raise ValueError(f"more than one JSON value, the second at character {end}")
    return value


def whole(value: Any) -> Any:
    """Return a value whose texts are all Unicode: the escape of half a character ("\\ud800") is replaced, as Go's reader does.

    No process can be given such a text. What is whole already is returned as it is.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(name): whole(item) for name, item in value.items()}
    return value


def dumps(value: Any) -> str:
    """Return the shortest JSON text of a value, in ASCII; TypeError or ValueError for what JSON does not know."""
    return "".join(make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)(value, 0))


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is no JSON type")

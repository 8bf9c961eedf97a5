"""The secrets of a build: files and variables of the caller, which `RUN --mount=type=secret` sees and no layer does."""

from __future__ import annotations

from runner import errors
from runner.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 512 * 1024  # as docker's
_HINT = "write id=ID,src=FILE or id=ID,env=VARIABLE"


def read(text: str, environ: Mapping[str, str]) -> tuple[str, bytes]:
    """Read id=ID,src=FILE, id=ID,env=VARIABLE, or id=VARIABLE, and return the id and the secret.

    UserErrors never show more than the text.
    """
    words = dict(word.partition("=")[::2] for word in text.split(","))
    unknown = words.keys() - {"id", "src", "source", "env", "type"}
    name = words.get("id", "")
    if unknown or not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise errors.UserError(f"secret {text!r} cannot be used", _HINT)
    variable, path = words.get("env", ""), words.get("src", words.get("source", ""))
    if not variable and not path and name in environ:  # as docker has it
        variable = name
    if variable and not path:
        if variable not in environ:
            raise errors.UserError(f"secret {name} cannot be used: there is no variable {variable}", "export it, or write src=FILE")
        return name, environ[variable].encode("utf-8", "surrogateescape")
    if not path or variable:
        raise errors.UserError(f"secret {text!r} names no file or variable, or both", _HINT)
    try:
        return name, files.read(path, limit_bytes=_LARGEST)
    except OSError as e:
        raise errors.UserError(f"secret {name} cannot be read from {path}: {e.strerror}", "a regular file of up to 512 KiB") from e

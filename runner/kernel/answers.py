"""What a forked child tells its parent through a pipe: the JSON-able result of a function, or what it raised, to be raised there."""

from __future__ import annotations

import errno

from runner import errors, log
from runner.kernel import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def encode(function: Callable[[], Any]) -> bytes:
    """Call `function` and return what `decode` makes its result, or its exception, of. Never raises what the function raised."""
    try:
        answer: Any = ["ok", function()]
    except errors.RunnerError as e:
        known = next(kind.__name__ for kind in type(e).__mro__ if kind.__module__ == errors.__name__)
        answer = ["runner", known, e.message, e.hint]
    except OSError as e:
        number, words = (e.errno, e.strerror) if e.errno else (errno.EIO, str(e) or type(e).__name__)
        answer = ["os", number, words, e.filename if isinstance(e.filename, str) else None]
    except BaseException as e:  # the child must answer whatever happens, and must not run its parent's handlers
        import traceback

        answer = ["bug", f"{type(e).__name__}: {e}", traceback.format_exc()]
    return plain_json.dumps(answer).encode()


def decode(raw: bytes, how: str = "") -> Any:
    """Return what the child's function returned, or raise what it raised: OSError with its errno, a RunnerError with hint and class.

    A class of elsewhere becomes the nearest one of `errors`, anything else a Bug. OSError ECHILD when the child ended without a whole
    answer; `how` it ended goes into the words.
    """
    if not raw:
        raise OSError(errno.ECHILD, f"child process ended without an answer{how}")
    try:
        kind, *rest = plain_json.loads(raw)
    except ValueError as e:
        raise OSError(errno.ECHILD, f"child process ended in the middle of its answer{how}") from e
    if kind == "ok":
        return rest[0]
    if kind == "runner":
        raise getattr(errors, rest[0])(rest[1], rest[2])
    if kind == "os":
        raise OSError(*rest)
    log.debug(rest[1])
    raise errors.Bug(rest[0])

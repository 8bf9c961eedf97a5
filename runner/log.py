"""What the engine says about itself: on stderr, or on the job log that an adapter chose.

stdout belongs to answers and to containers. Secrets never come here; those that were handed to `hide` would be masked if they did, and
what others have said (a registry, a service, an image) can neither move a terminal's cursor nor give a CI system orders.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

MASK = "[MASKED]"  # GitLab's own word
_SHORTEST_SECRET = 4
_LONGEST_STYLE = 16
_HARMLESS = "\n\t\xa0\u202f\u3000"
_GREY, _YELLOW, _RED, _GREEN, _RESET = "\033[90m", "\033[33;1m", "\033[31;1m", "\033[32;1m", "\033[0;m"


class _Voice:
    """Where words go; one for the process, changed once at start by the adapter or the command line."""

    stream: TextIO | None = None  # None: whatever sys.stderr is when a word is said
    colour: bool = False
    debug: bool = False
    began: float = time.monotonic()
    secrets: tuple[str, ...] = ()  # longest first


_voice = _Voice()


def configure(*, stream: TextIO | None = None, colour: bool | None = None, debug: bool | None = None) -> None:
    """Choose the stream (stderr unless told), colour and debug output for the rest of the process."""
    if stream is not None:
        _voice.stream = stream
    if colour is not None:
        _voice.colour = colour
    if debug is not None:
        _voice.debug = debug


def hide(*values: str) -> None:
    """Mask values in whatever is said from now on. Those of less than four letters would mask the words of messages, and are left."""
    found = {*_voice.secrets, *(value for value in values if len(value) >= _SHORTEST_SECRET)}
    _voice.secrets = tuple(sorted(found, key=len, reverse=True))


def hidden() -> tuple[str, ...]:
    """Return the values that are masked."""
    return _voice.secrets


def masked(text: str) -> str:
    """Return text without the hidden values."""
    for value in _voice.secrets:
        text = text.replace(value, MASK)
    return text


def quote(text: str) -> str:
    """Return what somebody else has printed as it may stand in a job log: colours, but no other control characters, and no commands.

    GitLab's section markers end with a carriage return; GitHub's runner takes orders from lines that begin with "::" and from "##[".
    """
    lines = []
    for line in text.split("\n"):
        shown = _visible(line.removesuffix("\r")).replace("##[", "##\\[")
        lines.append(f"\\{shown}" if shown.lstrip().startswith("::") else shown)
    return "\n".join(lines)


def _visible(text: str) -> str:
    """Return text with its control characters written out, but for line ends, tabs and colours."""
    if text.isprintable():
        return text
    first, *others = text.split("\033[")
    found = [_escaped(first)]
    for piece in others:
        style, is_style, rest = piece.partition("m")
        # 8 conceals, and Jenkins takes what follows it for a note of its own
        if (
            is_style
            and len(style) <= _LONGEST_STYLE
            and all(part == "" or (part.isdecimal() and int(part) != 8) for part in style.split(";"))
        ):
            found.append(f"\033[{style}m{_escaped(rest)}")
        else:
            found.append(f"\\x1b[{_escaped(piece)}")
    return "".join(found)


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() or c in _HARMLESS else c.encode("unicode_escape").decode() for c in text)


def is_terminal() -> bool:
    """Tell whether a live progress display makes sense: a terminal, and no CI system behind it."""
    return (_voice.stream or sys.stderr).isatty() and not os.environ.get("CI")


def is_debug() -> bool:
    """Tell whether --debug is on."""
    return _voice.debug


def say(message: str) -> None:
    """Print one plain line."""
    _write(message)


def step(message: str) -> None:
    """Announce slow work, before it starts."""
    _write(message, _GREEN)


def warn(message: str) -> None:
    """Print a warning: the work goes on, with less than was asked."""
    _write(f"WARNING: {quote(message)}", _YELLOW)


def fail(message: str, hint: str = "") -> None:
    """Print why the work ends, and what to do about it."""
    _write(f"ERROR: {quote(message)}", _RED)
    if hint:
        _write(f"({quote(hint)})")


def debug(message: str) -> None:
    """Print a detail with the milliseconds since start, under --debug only."""
    if _voice.debug:
        _write(f"[{(time.monotonic() - _voice.began) * 1000:7.1f} ms] {quote(message)}", _GREY)


def _write(message: str, colour: str = "") -> None:
    message = masked(_visible(message))
    text = f"{colour}{message}{_RESET}" if colour and _voice.colour else message
    stream = _voice.stream or sys.stderr
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass  # the reader has gone, or its disk is full: words are lost, the work is not


def paint(text: str) -> None:
    """Write `text` as it is, control sequences included: for a live display on a terminal (see is_terminal)."""
    stream = _voice.stream or sys.stderr
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        pass

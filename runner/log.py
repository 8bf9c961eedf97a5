"""What the engine says about itself: on stderr, or on the job log that an adapter chose.

stdout belongs to answers and to containers. Secrets never come here.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_GREY, _YELLOW, _RED, _GREEN, _RESET = "\033[90m", "\033[33;1m", "\033[31;1m", "\033[32;1m", "\033[0;m"


class _Voice:
    """Where words go; one for the process, changed once at start by the adapter or the command line."""

    stream: TextIO | None = None  # None: whatever sys.stderr is when a word is said
    colour: bool = False
    debug: bool = False
    began: float = time.monotonic()


_voice = _Voice()


def configure(*, stream: TextIO | None = None, colour: bool | None = None, debug: bool | None = None) -> None:
    """Choose the stream (stderr unless told), colour and debug output for the rest of the process."""
    if stream is not None:
        _voice.stream = stream
    if colour is not None:
        _voice.colour = colour
    if debug is not None:
        _voice.debug = debug


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
    _write(f"WARNING: {message}", _YELLOW)


def fail(message: str, hint: str = "") -> None:
    """Print why the work ends, and what to do about it."""
    _write(f"ERROR: {message}", _RED)
    if hint:
        _write(f"({hint})")


def debug(message: str) -> None:
    """Print a detail with the milliseconds since start, under --debug only."""
    if _voice.debug:
        _write(f"[{(time.monotonic() - _voice.began) * 1000:7.1f} ms] {message}", _GREY)


def _write(message: str, colour: str = "") -> None:
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

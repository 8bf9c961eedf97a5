"""Signals by the names that docker takes, without the enums that the standard module would load."""

from __future__ import annotations

from runner import errors

_NUMBERS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ABRT": 6, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "CONT": 18,
    "STOP": 19, "TSTP": 20, "WINCH": 28,
}  # fmt: skip


def number(text: str) -> int:
    """Return the number of KILL, SIGKILL or 9. UserError for what is no signal."""
    if text.isascii() and text.isdigit() and 0 < int(text[:3]) < 65:
        return int(text)
    found = _NUMBERS.get(text.upper().removeprefix("SIG"))
    if found is None:
        raise errors.UserError(f"there is no signal {text[:40]!r}")
    return found

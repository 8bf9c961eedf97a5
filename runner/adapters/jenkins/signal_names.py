"""Signals by the names that docker takes, without the enums that the standard module would load."""

from __future__ import annotations

from runner import errors

_NUMBERS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ABRT": 6, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "CONT": 18,
    "STOP": 19, "TSTP": 20, "WINCH": 28,
}  # fmt: skip
_REAL_TIME = 34  # SIGRTMIN of glibc; systemd as PID 1 of an image stops at SIGRTMIN+3


def number(text: str) -> int:
    """Return the number of KILL, SIGKILL or 9. UserError for what is no signal."""
    if text.isascii() and text.isdigit() and len(text) < 3 and 0 < int(text) < 65:
        return int(text)
    name = text.upper().removeprefix("SIG")
    later = name.removeprefix("RTMIN+")
    if later != name and later.isascii() and later.isdigit() and len(later) < 3 and int(later) <= 30:
        return _REAL_TIME + int(later)
    found = _NUMBERS.get(name)
    if found is None:
        raise errors.UserError(f"there is no signal {text[:40]!r}")
    return found

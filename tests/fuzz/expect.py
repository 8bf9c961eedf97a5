"""What a target may assert: a refusal in our own words or a value that holds what it promises, and nothing else."""

import re
from collections.abc import Callable
from typing import TypeVar

from runner.errors import Bug, RunnerError

_T = TypeVar("_T")
_LONGEST_WORDS = 20_000  # of one message: what is shown of the input is cut


def refused(function: Callable[[], _T], *more: type[Exception]) -> _T | None:
    """Return what a function returns, None if it refuses its input as it may: by a RunnerError that is no Bug, or one of `more`.

    Every other exception is the target's finding.
    """
    try:
        return function()
    except RunnerError as e:
        assert not isinstance(e, Bug), e
        assert e.message.strip(), "a refusal says nothing"
        assert len(e.message) + len(e.hint) < _LONGEST_WORDS, "a refusal repeats its input without an end"
        return None
    except more:
        return None


def is_encodable(*texts: str) -> bool:
    """Tell whether texts can be handed to the kernel: bytes that are no UTF-8 are fine, lone surrogates of JSON and zero bytes are not."""
    try:
        return all("\0" not in text and text.encode("utf-8", "surrogateescape") is not None for text in texts)
    except UnicodeEncodeError:
        return False


def text(data: bytes) -> str:
    """Return bytes as the text that Python makes of a command line or of an environment."""
    return data.decode("utf-8", "surrogateescape")


def words(data: bytes) -> list[str]:
    """Return the words of a command line, one a line, without what execve(2) cannot pass."""
    return text(data).replace("\0", "").split("\n")


def with_checksums(raw: bytes) -> bytes:
    """Return an archive whose headers have the checksums that they need, so that a change of a header is seen for what it says."""
    found = bytearray(raw)
    for at in range(0, len(found) - 511, 512):
        if re.match(rb"ustar[\0 ]", found[at + 257 : at + 263]):
            found[at + 148 : at + 156] = b" " * 8
            found[at + 148 : at + 156] = b"%06o\0 " % sum(found[at : at + 512])
    return bytes(found)

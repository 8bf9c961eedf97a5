"""What the hook says in a job log: workflow commands, which the runner turns into annotations and foldable groups."""

from __future__ import annotations

import os

from runner import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def line(text: str) -> None:
    """Write one line to stdout, at once and in its place among what containers print."""
    data = memoryview(f"{log.masked(text)}\n".encode(errors="replace"))
    while data:
        data = data[os.write(1, data) :]


def warning(message: str) -> None:
    """Annotate the job with a warning: the work goes on, with less than was asked."""
    line(f"::warning::{_escaped(message)}")


def error(message: str, hint: str = "") -> None:
    """Annotate the job with the reason why the work ends."""
    line(f"::error::{_escaped(f'{message} ({hint})' if hint else message)}")


def group(title: str, lines: Iterable[str]) -> None:
    """Write lines that are folded away below a title. What a container printed cannot be a workflow command here."""
    token = os.urandom(16).hex()  # nobody can guess how to end the quotation
    line(f"::group::{_escaped(title)}")
    line(f"::stop-commands::{token}")
    for text in lines:
        line(text)
    line(f"::{token}::")
    line("::endgroup::")


def _escaped(text: str) -> str:
    """Return text as the data of a workflow command (ActionCommand.cs): what a registry says must not become a command of its own."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

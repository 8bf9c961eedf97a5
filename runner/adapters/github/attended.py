"""Work in a child process, which may move into a job for good, while we pass the runner's signals on to it and clean up behind it."""

from __future__ import annotations

import os

from runner.kernel import process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def call(function: Callable[[], int]) -> int:
    """Run `function` in a child and return what it returns, or raise what it raised. SIGINT and SIGTERM go to the child."""
    own = os.getpid()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        process.die_with(own)
        os.close(reader)
        process.answer_and_exit(writer, function)
    os.close(writer)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    old = {number: signals.signal(number, pass_on) for number in (signals.SIGINT, signals.SIGTERM)}
    try:
        return int(process.receive(pid, reader))
    finally:
        for number, handler in old.items():
            signals.signal(number, handler)

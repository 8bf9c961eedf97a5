"""What to take back when a job cannot be made: contextlib.ExitStack's idea, without the 2 ms that importing it costs every `run`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Undo:
    """Calls, in a `with` statement that fails, what was registered, last first; nothing of it after `keep`."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def add(self, call: Callable[[], object]) -> None:
        """Register what takes back what was just done."""
        self._calls.append(call)

    def keep(self) -> None:
        """Forget everything: it was a success."""
        self._calls.clear()

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, *_: object) -> None:
        while self._calls:
            call = self._calls.pop()
            try:
                call()
            except BaseException:
                self.__exit__()  # the others all the same
                raise

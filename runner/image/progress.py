"""What a pull shows while it runs: a live bar per layer on a terminal, a line every few seconds in a CI log."""

import os
import threading
import time
from collections.abc import Callable, Sequence

from runner import log
from runner.model import Descriptor

_LINE_EVERY_S, _BARS_EVERY_S = 3.0, 0.1
_BAR_WIDTH = 30


class Progress:
    """The display of one pull; a context manager. Reports may come from several threads."""

    def __init__(self, blobs: Sequence[Descriptor], *, live: bool | None = None, line_every_s: float = _LINE_EVERY_S) -> None:
        """Show nothing yet; `live` None asks log.is_terminal()."""
        self._blobs = list(dict.fromkeys(blobs))
        self._have = {blob.digest: 0 for blob in self._blobs}
        self._live = log.is_terminal() if live is None else live
        self._every_s = _BARS_EVERY_S if self._live else line_every_s
        self._last = time.monotonic()
        self._drawn = 0  # lines of the live display on the screen
        self._lock = threading.Lock()

    def __enter__(self) -> "Progress":
        """Return the display itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state of the bars on the screen."""
        if self._drawn:
            self._draw()

    def of(self, blob: Descriptor) -> Callable[[int], None]:
        """Return the function that hears how many bytes of a blob are here."""

        def report(have: int) -> None:
            with self._lock:
                self._have[blob.digest] = have
                now = time.monotonic()
                if now - self._last < self._every_s:
                    return
                self._last = now
                if self._live:
                    self._draw()
                else:
                    log.say(summary(self._blobs, self._have))

        return report

    def _draw(self) -> None:
        try:
            columns, rows = os.get_terminal_size(2)
        except OSError:
            columns, rows = 80, 24
        lines = bars(self._blobs, self._have, columns=columns, rows=rows)
        up = f"\033[{self._drawn}A" if self._drawn else ""
        log.paint(up + "".join(f"\r{line}\033[K\n" for line in lines) + "\033[J")
        self._drawn = len(lines)


def summary(blobs: Sequence[Descriptor], have: dict[str, int]) -> str:
    """Return one line for a CI log."""
    done = sum(1 for blob in blobs if have[blob.digest] == blob.size)
    total = sum(blob.size for blob in blobs)
    return f"Downloaded {size_text(sum(have.values()))} of {size_text(total)}, {done} of {len(blobs)} layers complete"


def bars(blobs: Sequence[Descriptor], have: dict[str, int], *, columns: int, rows: int) -> list[str]:
    """Return one line per layer, no wider than the terminal; where they do not fit, those that are complete make room."""
    room = max(1, rows - 2)
    shown = list(blobs)
    if len(shown) > room:
        shown = [blob for blob in blobs if 0 < have[blob.digest] < blob.size][:room] or shown[:room]
    lines = []
    for blob in shown:
        share = have[blob.digest] / blob.size if blob.size else 1.0
        filled = int(share * _BAR_WIDTH)
        bar = "█" * filled + "·" * (_BAR_WIDTH - filled)
        line = f"{blob.digest[7:19]} {bar} {share:4.0%} {size_text(have[blob.digest])} of {size_text(blob.size)}"
        lines.append(line[: max(1, columns - 1)])
    return lines


def size_text(count: int) -> str:
    """Write a number of bytes for people: "864.0 MB"."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value:.0f} TB"

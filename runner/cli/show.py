"""Answers as tables, sizes and ages that people read."""

import time

from runner import quantities


def table(rows: list[list[str]], header: tuple[str, ...]) -> str:
    """Return the rows below an upper-case header, each column as wide as its widest cell."""
    cells = [[name.upper().replace("_", " ") for name in header], *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells)


def size(count: int) -> str:
    """Return bytes with a unit: 1234567 -> "1.2 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def age(created: float) -> str:
    """Return how long ago a time (seconds since the epoch) was."""
    return f"{quantities.duration(time.time() - created)} ago"


def short_digest(digest: str) -> str:
    """Return the first twelve digits of a digest, as docker shows an image id."""
    return digest.partition(":")[2][:12] or digest

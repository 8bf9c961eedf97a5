"""Timing: sides that are measured in turn, and what comes out of it."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

WARM_UPS = 2

Samples = list[float]  # seconds
Side = Callable[[], float]  # does once what is measured, and returns its seconds


class Result(NamedTuple):
    """One number that a target is set for (`target` is the most it may be), or one that is only told (no target)."""

    name: str
    what: str
    number: float
    target: float | None
    ours: str
    other: str  # what ours is compared with, and its figure
    spread: str

    @property
    def is_missed(self) -> bool:
        """Tell whether a target was set and missed."""
        return self.target is not None and self.number > self.target


class Measured(NamedTuple):
    """What one group of measurements gives: its results, curves for the plot, and why some of them are missing."""

    results: tuple[Result, ...] = ()
    curve: tuple[float, ...] = ()
    missing: Mapping[str, str] = {}


def timed(argv: Sequence[str], environ: Mapping[str, str], *, stdin: str = "", longest_s: float = 5.0) -> float:
    """Run a program that must succeed and return its seconds; `stdin` is what it reads."""
    start = time.perf_counter()
    done = subprocess.run(argv, env=dict(environ), input=stdin.encode(), capture_output=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    if seconds > longest_s:
        raise SystemExit(f"{' '.join(argv)} took {seconds:.1f} s: something waits here, and a ratio would mean nothing")
    return seconds


def alternate(sides: Mapping[str, Side], *, rounds: int, warm_ups: int = WARM_UPS) -> dict[str, Samples]:
    """Run all sides in turn, so that a noisy machine disturbs them alike; the first runs of each do not count."""
    samples: dict[str, Samples] = {name: [] for name in sides}
    for number in range(warm_ups + rounds):
        for name, side in sides.items():
            seconds = side()
            if number >= warm_ups:
                samples[name].append(seconds)
    return samples


def settle() -> None:
    """Have everything on the disk that is on its way there: who comes next does not wait for what was written before."""
    os.sync()


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """Return the first and third quartile, between which half of the samples lie."""
    if len(samples) == 1:
        return samples[0], samples[0]
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return first, third


def ratio(name: str, what: str, ours: Samples, other: Samples, *, label: str, target: float | None) -> Result:
    """Return the ratio of two medians."""
    return Result(
        name, what, median(ours) / median(other), target, show(median(ours)), f"{label} {show(median(other))}",
        f"{span(ours)} / {span(other)}",
    )  # fmt: skip


def span(samples: Sequence[float]) -> str:
    """Show the two quartiles of some samples."""
    first, third = quartiles(samples)
    return f"{show(first)}–{show(third)}"


def show(seconds: float) -> str:
    """Show a duration with as many digits as it deserves."""
    return f"{seconds * 1000:.0f} ms" if seconds < 2 else f"{seconds:.1f} s"

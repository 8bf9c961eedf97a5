"""What is written at the end: RESULTS.md for people, results.json for programs."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Result


def write(
    directory: Path, results: Sequence[Result], *, missing: Mapping[str, str], image: str, versions: Sequence[str], rounds: int
) -> None:
    """Write both files; `missing` are the names that have no number, with the reasons."""
    numbers = {result.name: round(result.number, 3) for result in results}
    (directory / "results.json").write_text(json.dumps(numbers, indent=2) + "\n")
    text = [
        "# Benchmark",
        "",
        f"Medians of up to {rounds} pairs (slow ones fewer), the sides measured in turn in one run of `./dev bench`. A spread is the first",
        "and third quartile of either side. Where nothing is wanted, the number is there for comparison only.",
        "",
        "![ratios, and what a job costs beside others](results.svg)",
        "",
        "| name | what | dockless | compared with | number | wanted at most | spread |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *(row(result) for result in results),
        "",
        "## Where and with what",
        "",
        f"- {machine()}",
        f"- {', '.join(versions)}",
        f"- the big image: {image}; the small one: busybox",
        "",
        "## Not measured",
        "",
        *([f"- {name}: {reason}" for name, reason in missing.items()] or ["Nothing was left out."]),
    ]
    (directory / "RESULTS.md").write_text("\n".join(text) + "\n")


def row(result: Result) -> str:
    """Return a result as a row of the table."""
    target = "" if result.target is None else f"{result.target:g}"
    cells = (result.name, result.what, result.ours, result.other, f"**{result.number:.2f}**", target, result.spread)
    return f"| {' | '.join(cells)} |"


def line(result: Result) -> str:
    """Return a result as a line for the terminal."""
    wanted = "" if result.target is None else f" (wanted: at most {result.target:g}{', MISSED' if result.is_missed else ''})"
    other = f" / {result.other}" if result.other else ""
    return f"{result.name}: {result.ours}{other} = {result.number:.3f}{wanted}"


def machine() -> str:
    """Say what machine this is."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{os.cpu_count()} cores ({found[1] if found else platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}, {system}"

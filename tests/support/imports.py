"""Which modules the program loads while it works, as the interpreter itself reports it."""

import re
import sys

from tests.support.engine import TREE

# what costs milliseconds: a step as a whole has thirty, half of them crun's
SLOW = (
    "click", "yaml", "requests", "urllib3", "pyroute2", "dataclasses", "subprocess", "zstandard", "isal", "asyncio", "inspect", "logging",
    "argparse", "tempfile", "shutil", "pathlib", "difflib", "ssl", "socket", "http", "email", "random", "traceback", "multiprocessing",
    "concurrent", "threading", "ipaddress", "runner.config_file", "runner.job.checks", "runner.image.transport", "runner.image.registry",
    "runner.image.fetch", "runner.cli.commands", "typing", "re", "enum", "json", "signal", "ctypes", "struct", "collections",
)  # fmt: skip
# what `run` may load, which makes a job first, and a stage of a job may not
SLOW_FOR_STAGES = (
    "contextlib", "functools", "runner.job.keeper_start", "runner.job.furnish", "runner.image.pull", "runner.image.auth",
)  # fmt: skip
_LINE = re.compile(r"import time: +[0-9]+ \| +[0-9]+ \| +([A-Za-z0-9_.]+)\r?")


def argv(*arguments: str) -> list[str]:
    """Return the command line that starts the program as its launcher does, and reports every import on stderr."""
    paths = [str(TREE), *(path for path in sys.path if path.endswith("-packages"))]
    program = f"import sys; sys.path += {paths!r}; from runner.__main__ import main; main()"
    return [sys.executable, "-IS", "-X", "importtime", "-c", program, *arguments]


def loaded(report: str) -> set[str]:
    """Return the modules that a report names, whichever process of the program loaded them."""
    return set(_LINE.findall(report))


def without(report: str) -> str:
    """Return a report's other lines: the program's own words."""
    return "\n".join(line for line in report.splitlines() if not line.startswith("import time:"))


def slow(modules: set[str], *, stage: bool = False) -> set[str]:
    """Return what of some modules is too slow for the hot path (`stage`: for a stage of a job), packages by their name."""
    unwanted = (*SLOW, *SLOW_FOR_STAGES) if stage else SLOW
    return {known for known in unwanted for name in modules if name == known or name.startswith(f"{known}.")}

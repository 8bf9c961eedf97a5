"""Long runs, guided by coverage: each target in a process of its own under atheris (libFuzzer), one after the other.

    python -m tests.fuzz.run [TARGET...] [--seconds N] [--keep DIRECTORY]

N seconds for each target. What is found is written to DIRECTORY/TARGET (default: a temporary one), each input that made a target fail as
crash-*, timeout-* or oom-*, and told; the exit code is 1 then. The last line is JSON: executions and seconds of each target. Atheris is not
among the project's own requirements: `./dev fuzz` makes an environment that has it.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_LONGEST_INPUT = 8192
_INPUT_TIMEOUT_S = 25
_MEMORY_MB = 2048


def main(arguments: list[str]) -> int:
    """Run the targets that are asked for, all without a word; 0 if none found anything."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.run", description="fuzz the targets of tests.fuzz.targets")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, help="where inputs are kept, and found again by the next run")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one:
        _fuzz(asked.targets[0], asked.keep, asked.seconds)
    with tempfile.TemporaryDirectory(prefix="dockless-fuzz-") as scratch:
        keep = (asked.keep or Path(scratch)).absolute()
        found = {name: _run(name, keep / name, asked.seconds) for name in asked.targets or _names()}
        failed = sorted(str(path) for path in keep.glob("*/*-*") if path.name.startswith(("crash-", "timeout-", "oom-")))
        for path in failed:
            print(f"fuzz: found {path}: {Path(path).read_bytes()[:2000].hex()}", flush=True)
    print(json.dumps({"targets": found, "executions": sum(each["executions"] for each in found.values()), "found": failed}))
    return 1 if failed or any(each["code"] for each in found.values()) else 0


def _names() -> list[str]:
    from tests.fuzz import targets

    return list(targets.TARGETS)


def _run(name: str, keep: Path, seconds: int) -> dict[str, int]:
    """Fuzz one target in a process of its own; return its executions, seconds and exit code."""
    keep.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    log = keep.with_suffix(".log")
    with log.open("wb") as file:
        command = [sys.executable, "-m", "tests.fuzz.run", name, "--one", "--seconds", str(seconds), "--keep", str(keep)]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    text = log.read_text(errors="replace")
    executed = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", text, re.MULTILINE) or re.findall(r"^#(\d+)\t", text, re.MULTILINE)
    executions = int(executed[-1]) if executed else 0
    print(f"fuzz: {name}: {executions} executions in {time.monotonic() - began:.0f} s, exit code {code}", flush=True)
    if code:
        print(text[-4000:], flush=True)
    return {"executions": executions, "seconds": round(time.monotonic() - began), "code": code}


def _fuzz(name: str, keep: Path, seconds: int) -> None:
    """Fuzz right here; libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")  # is in an environment of its own, without types

    with atheris.instrument_imports(include=["runner"]):
        from tests.fuzz import targets
    seeds = keep.with_name(f"{keep.name}.seeds")
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(targets.seeds(name)):
        (seeds / f"seed-{number}").write_bytes(seed)
    if name in targets.IN_NAMESPACE:
        from runner.kernel import userns
        from tests.support import trees

        for path in (keep, seeds):
            path.chmod(0o777)
        userns.enter(trees.isolated())
        os.umask(0o022)
    options = [
        f"-max_total_time={seconds}", f"-max_len={_LONGEST_INPUT}", f"-timeout={_INPUT_TIMEOUT_S}", f"-rss_limit_mb={_MEMORY_MB}",
        f"-artifact_prefix={keep}/", "-print_final_stats=1", str(keep), str(seeds),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

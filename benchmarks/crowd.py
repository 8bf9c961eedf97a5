"""Many jobs side by side on one machine: what one of them holds while it is idle, and what it costs to start one beside 99 others."""

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import processes
from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, Result, median, ratio, show
from benchmarks.warm import check, standing_job
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_calls import Call

_CROWD = 100
_SHOWN = (1, 50, _CROWD)
_PROJECTS = 10
_ALIVE = "the step runs"


def idle_memory(dockless: Dockless, image: str) -> Measured:
    """Add up the private memory of all processes of a job that stands between two of its stages."""
    with standing_job(dockless, image, project=1) as attempt:
        check(attempt, attempt.stage("build_script", ["true"]))
        held = {pid: _private_bytes(pid) for pid in processes.with_descendants(dockless.keepers())}
        names = sorted(f"{processes.command(pid)} {size / 1e6:.1f}" for pid, size in held.items())
    if len(held) < 2:
        raise SystemExit(f"a job has a keeper and a way out, but these are its processes: {', '.join(names)}")
    total = sum(held.values()) / 1e6
    what = f"private memory of all processes of an idle GitLab job, in MB ({', '.join(names)})"
    return Measured((Result("idle_job_private_mb", what, total, 12.0, f"{total:.1f} MB", "", ""),))


def side_by_side(dockless: Dockless, image: str, *, rounds: int) -> Measured:
    """Start jobs until there are 100; compare the last with the first.

    A start is config, prepare and a first step. Each of the others runs a step meanwhile, as jobs do. The first and the last are measured
    several times: the first before the others come and after they have gone.
    """
    once = max(1, rounds // 2)
    first = [_start_alone(dockless, image, at=0) for _ in range(1 + once)][1:]
    curve: list[float] = []
    with ExitStack() as stack:
        for number in range(_CROWD - 1):
            curve.append(_start_and_stay(dockless, image, number, stack))
        last = [_start_alone(dockless, image, at=_CROWD - 1) for _ in range(2 * once)]
    curve.append(median(last))
    first += [_start_alone(dockless, image, at=0) for _ in range(once)]
    shown = ", ".join(f"{number}: {show(_smoothed(curve, number))}" for number in _SHOWN)
    what = f"preparing a job and its first step beside {_CROWD - 1} others that run / the same alone (job {shown})"
    return Measured((ratio("job100_vs_job1", what, last, first, label="first", target=1.3),), tuple(curve))


def _start_alone(dockless: Dockless, image: str, *, at: int) -> float:
    with standing_job(dockless, image, project=_project(at), slot=at) as attempt:
        check(attempt, attempt.stage("build_script", ["true"]))
        return _seconds(attempt)


def _start_and_stay(dockless: Dockless, image: str, number: int, stack: ExitStack) -> float:
    attempt = stack.enter_context(standing_job(dockless, image, project=_project(number), slot=number))
    check(attempt, attempt.stage("build_script", ["true"]))
    seconds = _seconds(attempt)
    _wait_until_said(attempt, attempt.start_stage("build_script", [f"echo '{_ALIVE}'", "sleep 3600"]))
    return seconds


def _wait_until_said(attempt: Attempt, call: Call) -> None:
    deadline = time.monotonic() + 20
    while f"\n{_ALIVE}\n".encode() not in attempt.build.log:
        if call.ended(0.01) or time.monotonic() > deadline:
            raise SystemExit(f"a step that should stay did not: {bytes(attempt.build.log).decode(errors='replace')}")


def _seconds(attempt: Attempt) -> float:
    return sum(seconds for phase, seconds, _ in attempt.build.timeline if phase != "cleanup")


def _project(number: int) -> int:
    return 1 + number % _PROJECTS


def _smoothed(curve: Sequence[float], number: int) -> float:
    """Return a job's figure as the median of its neighbours': each of the crowd starts only once."""
    return median(curve[max(0, number - 3) : number + 2])


def _private_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) * 1024 for kib in re.findall(r"^Private_(?:Clean|Dirty):\s*([0-9]+) kB$", text, re.MULTILINE))

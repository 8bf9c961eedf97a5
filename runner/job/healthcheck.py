"""Waiting until services are healthy: their own check, run inside them as docker does.

A service is healthy at the first success and unhealthy after as many failures as it has retries. Failures count once an interval, as
docker's do, but it is asked more often, so that nobody waits out an interval in which the service has become ready.
"""

from __future__ import annotations

import os
import time

from runner import paths
from runner.job import keeper
from runner.kernel import files, plain_json, process
from runner.record import NamedTuple
from runner.sandbox import crun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.job.state import JobState
    from runner.model import Healthcheck

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_LAST_WORDS = 4096


class Report(NamedTuple):
    """What became of one service: `problem` is "" when it is healthy."""

    name: str
    problem: str
    words: str = ""  # what the last failing check printed


class Progress(NamedTuple):
    """How far one service's checks are; times are seconds since they began."""

    failures: int = 0
    counted_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S

    def after_failure(self, check: Healthcheck, *, now: float) -> Progress:
        """Return the progress after a check that failed: it counts once an interval, and not in the start period."""
        counts = now >= check.start_period_s and (
            now - self.counted_at >= check.interval_s or (not self.failures and now >= check.interval_s)
        )
        pause_s = min(self.pause_s * 2, _LONGEST_PAUSE_S, check.interval_s)
        return Progress(self.failures + 1, now, pause_s) if counts else self._replace(pause_s=pause_s)

    def is_over(self, check: Healthcheck) -> bool:
        """Tell whether the service has failed too often."""
        return self.failures >= check.retries


def wait(current: JobState, checks: dict[str, Healthcheck]) -> list[Report]:
    """Wait until each service is healthy, has failed too often or has ended. Never raises for a service: its report says so."""
    if not checks:
        return []
    found = keeper.call(current.keeper, lambda: _wait(checks))
    return [Report(*row) for row in found]


def _wait(checks: dict[str, Healthcheck]) -> list[list[str]]:
    began, names = time.monotonic(), list(checks)
    progress = dict.fromkeys(names, Progress())
    due = dict.fromkeys(names, began)
    reports: dict[str, list[str]] = {}
    while len(reports) < len(names):
        name = min((name for name in names if name not in reports), key=lambda each: due[each])
        time.sleep(max(0.0, due[name] - time.monotonic()))
        check = checks[name]
        problem, words = _ask(name, check)
        if not problem:
            reports[name] = [name, "", ""]
        elif not _runs(name):
            reports[name] = [name, "it has ended", words]
        else:
            progress[name] = progress[name].after_failure(check, now=time.monotonic() - began)
            if progress[name].is_over(check):
                reports[name] = [name, f"its health check failed {progress[name].failures} times: {problem}", words]
            due[name] = time.monotonic() + progress[name].pause_s
    return [reports[name] for name in names]


def _runs(name: str) -> bool:
    """Tell whether a service's first process is there: crun wrote its number, and the kernel reaps it when it ends."""
    try:
        pid = int(files.read(f"{paths.RUN}/c/{name}/{name}.0/pid"))
        return process.is_alive(pid, process.start_time(pid))
    except (OSError, ValueError):
        return False


def _ask(name: str, check: Healthcheck) -> tuple[str, str]:
    """Run the check once; return what is wrong, "" for nothing, and what it printed."""
    settings = files.read_json(f"{paths.RUN}/c/{name}/base.json")["process"]
    settings["args"] = ["/bin/sh", "-c", check.test[1]] if check.test[0] == "CMD-SHELL" else list(check.test[1:])
    settings["terminal"] = False
    described = f"{paths.RUN}/c/{name}/health.json"
    with open(described, "w", encoding="utf-8") as file:
        file.write(plain_json.dumps(settings))
    try:
        done = process.run(crun.exec_argv(f"{name}.0", process=described), check=False, timeout_s=check.timeout_s, limit_bytes=_LAST_WORDS)
    except TimeoutError:
        return f"it did not end within {check.timeout_s:g} s", ""
    finally:
        os.unlink(described)
    words = (done.stdout + done.stderr).decode(errors="replace").strip()
    return (f"it ended with {done.returncode}" if done.returncode else ""), words

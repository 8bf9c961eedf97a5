"""When the process that waits for a step looks at the job's disk, and what ends if the job has written too much.

Loaded by every step; job.disk_watch, which does the looking, only by those that last.
"""

from __future__ import annotations

import time

from runner import errors, log, paths
from runner.job import stop
from runner.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.job import disk_watch
    from runner.job.state import JobState

_FIRST_S = 0.5


class Alarm:
    """The watch over one job's disk for as long as a process of it is waited for."""

    def __init__(self, job: JobState) -> None:
        self._job = job
        self._watch: disk_watch.Watch | None = None
        self.next = time.monotonic() + _FIRST_S if job.disk.limit or job.disk.reserve else None  # when to look; None: never
        self.problem = self._hint = ""

    def look(self) -> bool:
        """Look, from inside of the job, and tell whether what is waited for has to end."""
        from runner.job import disk_watch  # most steps do not last so long

        try:
            if self._watch is None:
                self._watch = disk_watch.Watch(self._job)
            pause_s, problem, hint = self._watch.look()
        except OSError as e:  # the job is being ended under us
            log.debug(f"nobody watches the disk any more: {e}")
            self.next = None
            return False
        self.next = time.monotonic() + pause_s
        self.problem, self._hint = self.problem or problem, self._hint or hint
        return bool(self.problem)

    def end(self) -> errors.UserError:
        """End whatever runs beside the steps, since that may be who writes, and return the error to raise."""
        for name in self._job.containers:
            stop.kill(init_pid(f"{paths.RUN}/c/{name}/{name}.0"))
        return errors.UserError(self.problem, self._hint)


def init_pid(bundle: str) -> int:
    """Return the pid, in the job's PID namespace, of a bundle's first process; 0 while it has not started."""
    try:
        return int(files.read(f"{bundle}/pid") or b"0")
    except (FileNotFoundError, ValueError):
        return 0

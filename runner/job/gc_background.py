"""The collector that `gitlab prepare` starts when the disk is too full, and does not wait for.

It holds nothing of its starter's: whoever waits for the end of a prepare waits for its output to be closed.
"""

from __future__ import annotations

import os
import time

from runner import errors, log, quantities
from runner.job import disk_usage
from runner.kernel import locks, signals, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runner.job.gc_plan import Deletion
    from runner.job.surroundings import Surroundings

_PAUSE_S = 300  # what could not be freed just now can hardly be freed now, and looking for it costs the jobs


def start_if_full(around: Surroundings) -> bool:
    """Start a collector if the file system is above its high mark and none runs or has just run; tell whether one was started.

    Returns at once and raises nothing. The process must have a single thread.
    """
    try:
        if not disk_usage.of(around.store).is_above(around.settings.gc.high) or _has_just_run(around):
            return False
        child = os.fork()
        if child == 0:
            _leave(around)
        os.waitpid(child, 0)
    except OSError as e:
        log.debug(f"no collector was started: {e}")
        return False
    return True


def _has_just_run(around: Surroundings) -> bool:
    if locks.is_held(around.store.gc_lock):
        return True
    try:
        return 0 <= time.time() - os.stat(around.store.gc_log).st_mtime < _PAUSE_S
    except FileNotFoundError:
        return False


def _leave(around: Surroundings) -> NoReturn:
    """Be the collector, in a grandchild: nobody has to reap it."""
    code = 1
    try:
        os.setsid()  # a signal to the caller's group is not meant for us
        if os.fork() == 0:
            _be_the_collector(around)
        code = 0
    finally:
        os._exit(code)


def _be_the_collector(around: Surroundings) -> None:
    for number in (signals.SIGTERM, signals.SIGINT):
        signals.signal(number, signals.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    words = os.open(around.store.gc_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.dup2(null, 0)
    os.dup2(words, 1)
    os.dup2(words, 2)
    syscalls.close_range(3)
    os.chdir("/")
    os.nice(10)
    log.configure(stream=os.fdopen(2, "w", encoding="utf-8", closefd=False), colour=False)
    from runner.job import sweep  # only a machine whose disk is full pays for it

    began, freed = time.monotonic(), 0

    def report(deletion: Deletion, size_bytes: int) -> None:
        nonlocal freed
        freed += size_bytes
        log.say(f"removed {deletion.kind} {deletion.name}: {size_bytes} bytes ({deletion.reason})")

    try:
        log.say(f"the disk is fuller than {around.settings.gc.high} %")
        sweep.collect(around, around.settings.gc, report=report, wait=False)
    except errors.RunnerError as e:
        log.fail(e.message, e.hint)
    except Exception as e:  # the root of a process that nobody waits for: its log is the only place
        log.fail(f"internal error: {type(e).__name__}: {e}")
    log.say(f"freed {freed} bytes in {quantities.duration(time.monotonic() - began)}")

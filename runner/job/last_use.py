"""When a volume or build storage was last given to a job: the time of a stamp beside it."""

import os

from runner import paths


def mark(path: str) -> None:
    """Note that a job is given `path` now; its directory must be there. Idempotent."""
    stamp = paths.stamp(path)
    try:
        os.utime(stamp)
    except FileNotFoundError:
        os.close(os.open(stamp, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def of(path: str) -> float:
    """Return when a job was last given `path`, in seconds since the epoch; without a stamp, when its directory last changed."""
    try:
        return os.stat(paths.stamp(path)).st_mtime
    except FileNotFoundError:
        return os.stat(path, follow_symlinks=False).st_mtime

"""What a job has written to the disk, watched by the process that waits for its step: no step, no watch, and nothing runs in between.

Project quotas would be exact and free, but only root can set them. So the file system is asked how much is free (a system call), and the
job's own directories are measured when that says that they may have grown, or when it is long ago: a few milliseconds at a time, and a
twentieth of the time at most. Whoever writes quickly is therefore seen within a second or two, and goes a little beyond the limit.

What counts: files of the containers' roots, /tmp among them; in volumes and shared directories what was written since the job began
(ctime, which no program can choose); files that were removed but are open; each inode at least 4 KiB, so inodes are bounded as well.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from runner import paths
from runner.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.job.state import JobState

_LOOK_S = 1.0
_WORK_S, _REST_S = 0.02, 0.08  # of a measurement
_SHARE = 20  # a measurement is followed by so many times its own length without one
_LONGEST_S = 60.0
_INODE_BYTES = 4096
_INNOCENT_BYTES = 1024**2  # a job that has written less does not end for others
_FRESH_S = 60.0
_TICK_S = 0.05  # the kernel stamps files with the time of its last tick
_HINT = "let it write less, or raise limits.disk in the configuration"
_UNKNOWN_ERRORS = (errno.ENOENT, errno.EACCES, errno.EXDEV, errno.ELOOP, errno.ENOTDIR, errno.ESTALE)


class Watch:
    """The disk of one job, seen from inside of it: its mounts and ids have to be those of this process."""

    def __init__(self, job: JobState) -> None:
        self._bounds, self._created = job.disk, job.created
        self._work: Iterator[int] | None = None  # a measurement under way
        self._found = 0  # by the one under way
        self._spent_s = 0.0  # on it
        self._written = 0  # by the last one that ended
        self._free_then = _free(job.disk.directory)
        self._rest_until = self._due = 0.0
        self._told = False  # whether other jobs have had the time to say how big they are

    def look(self) -> tuple[float, str, str]:
        """Return in how many seconds to look again, and what is wrong with a hint, "" as long as nothing is. Lasts milliseconds."""
        free = _free(self._bounds.directory)
        is_short = free < self._bounds.reserve
        self._told = self._told and is_short
        if self._work is None and self._is_due(free, is_short=is_short):
            self._work, self._found, self._spent_s, self._free_then = _measure(self._bounds.directory, self._created), 0, 0.0, free
        if self._work is None:
            return _LOOK_S, "", ""
        if not self._go_on(self._work):
            if 0 < self._bounds.limit < self._found:
                return _LOOK_S, *self._too_much(self._found)
            return _REST_S, "", ""
        self._work, self._written, now = None, self._found, time.monotonic()
        self._rest_until = now + self._spent_s * _SHARE
        self._due = now + max(self._spent_s * _SHARE, _LONGEST_S)
        if 0 < self._bounds.limit < self._written:
            return _LOOK_S, *self._too_much(self._written)
        if is_short and self._is_the_biggest():
            return _LOOK_S, *self._too_little(free)
        return _LOOK_S, "", ""

    def _is_due(self, free: int, *, is_short: bool) -> bool:
        now = time.monotonic()
        if now < self._rest_until:
            return False
        # half of what is left to the job: nobody else's writing is known, and it may have been all ours
        grown = bool(self._bounds.limit) and self._free_then - free > max(_INNOCENT_BYTES, (self._bounds.limit - self._written) // 2)
        return is_short or grown or (bool(self._bounds.limit) and now >= self._due)

    def _go_on(self, work: Iterator[int]) -> bool:
        """Measure for a moment; tell whether that was all."""
        began = time.monotonic()
        try:
            for found in work:
                self._found += found
                if time.monotonic() - began > _WORK_S:
                    return False
            return True
        finally:
            self._spent_s += time.monotonic() - began

    def _is_the_biggest(self) -> bool:
        """Write down how big the job is, and tell whether no other one is bigger: the second time, as others have to do the same."""
        own = f"{self._bounds.directory}/disk"
        try:
            files.write_atomic(own, str(self._written).encode(), durable=False)
        except OSError:  # there is no room even for that
            pass
        had_time, self._told = self._told, True
        return had_time and self._written >= max(_INNOCENT_BYTES, _biggest(os.path.dirname(self._bounds.directory)))

    def _too_much(self, written: int) -> tuple[str, str]:
        return f"job uses more than {_size(self._bounds.limit)} of disk ({_size(written)}) and was ended", _HINT

    def _too_little(self, free: int) -> tuple[str, str]:
        return (
            f"disk is full: {_size(free)} are free and {_size(self._bounds.reserve)} have to be; this job has written the most "
            f"({_size(self._written)}) and was ended",
            "`dockless df` says what takes room; limits.disk_reserve in the configuration is what stays free",
        )


def _free(directory: str) -> int:
    """Return the bytes that a job can still use, or what its files would take at least where inodes are shorter."""
    info = os.statvfs(directory)
    inodes = info.f_favail * _INODE_BYTES if info.f_files else 1 << 62  # btrfs counts none
    return min(info.f_bavail * info.f_frsize, inodes)


def _measure(directory: str, created: float) -> Iterator[int]:
    """Yield bytes that the job has written, by and by."""
    places = [(f"{directory}/logs", 0.0)]
    disks = set()
    for name in _names(f"{directory}/containers"):
        places.append((f"{directory}/containers/{name}/upper", 0.0))
    for name in _names(f"{paths.RUN}/c"):
        home = f"{paths.RUN}/c/{name}"
        places += [(f"{home}/{volume}", created - _TICK_S) for volume in _names(home) if volume[:1] == "m"]
    seen: set[tuple[int, int]] = set()
    for path, since in places:
        try:
            info, system = os.stat(path), os.statvfs(path)
            if not stat.S_ISDIR(info.st_mode) or (info.st_dev, info.st_ino) in seen or system.f_flag & os.ST_RDONLY:
                continue
        except OSError:
            continue
        disks.add(_shape(system))
        seen.add((info.st_dev, info.st_ino))
        yield from _tree(path, since, seen)
    yield from _removed(disks, seen)


def _tree(path: str, since: float, seen: set[tuple[int, int]]) -> Iterator[int]:
    """Yield the bytes of what lies below a directory, and 0 for what was not changed since then; a file of several names counts once.

    The directory itself may be a mount point. Whoever moves directories about meanwhile may be counted short; what is free tells of that.
    """
    for name in _names(path):
        try:
            info = os.lstat(f"{path}/{name}")
            yield _bytes_of(info, since, seen)
            if stat.S_ISDIR(info.st_mode):
                yield from _below(files.Walk(f"{path}/{name}"), since, seen)
        except OSError as e:
            if e.errno not in _UNKNOWN_ERRORS:
                raise


def _below(walk: files.Walk, since: float, seen: set[tuple[int, int]]) -> Iterator[int]:
    try:
        while walk.subdirectories or not walk.is_at_start():
            if not walk.subdirectories:
                walk.leave()
                continue
            try:
                walk.enter(walk.subdirectories.pop(), open_up=False)
                names = os.listdir(walk.here)
            except OSError as e:
                if e.errno not in _UNKNOWN_ERRORS:
                    raise
                continue
            for name in names:
                try:
                    info = os.stat(name, dir_fd=walk.here, follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(info.st_mode):
                    walk.subdirectories.append(name)
                yield _bytes_of(info, since, seen)
    finally:
        walk.close()


def _bytes_of(info: os.stat_result, since: float, seen: set[tuple[int, int]]) -> int:
    if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
        identity = (info.st_dev, info.st_ino)
        if identity in seen:
            return 0
        seen.add(identity)
    return max(info.st_blocks * 512, _INODE_BYTES) if info.st_ctime >= since else 0


def _removed(disks: set[tuple[int, int, int]], seen: set[tuple[int, int]]) -> Iterator[int]:
    """Yield the bytes of files that have no name any more and are open in a process of the job."""

    def is_on(path: str) -> bool:
        try:
            return _shape(os.statvfs(path)) in disks
        except OSError:
            return False

    for pid in _names("/proc"):
        for fd in _names(f"/proc/{pid}/fd") if pid.isdigit() else []:
            path = f"/proc/{pid}/fd/{fd}"
            try:
                info = os.stat(path)
            except OSError:
                continue
            identity = (info.st_dev, info.st_ino)
            if info.st_nlink == 0 and stat.S_ISREG(info.st_mode) and identity not in seen and is_on(path):
                seen.add(identity)
                yield info.st_blocks * 512


def _biggest(jobs: str) -> int:
    """Return the most that a job has lately said to have written."""
    found = 0
    for name in _names(jobs):
        path = f"{jobs}/{name}/disk"
        try:
            if time.time() - os.stat(path).st_mtime < _FRESH_S:
                found = max(found, int(files.read(path)))
        except (OSError, ValueError):
            continue
    return found


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _shape(system: os.statvfs_result) -> tuple[int, int, int]:
    """Return what tells a disk from memory (memfd_create, tmpfs): an overlay has the numbers of its disk, but devices of its own."""
    return system.f_blocks, system.f_frsize, system.f_files


def _size(size_bytes: int) -> str:
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}".replace(".0 ", " ")
    return f"{size_bytes // 1024} KiB"

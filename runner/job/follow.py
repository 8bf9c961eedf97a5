"""Streaming what services print into the job log while a step runs: a child process that tails their files.

Each verb is a process of its own, so the place up to which a log was shown is kept beside it, and no line is shown twice.

What services print can give neither a terminal nor a CI system orders here (log.quote). The values that were handed to log.hide are masked,
also where a service writes one in two pieces: between them would come our prefix, and whoever masks the job log would not know it any more.
"""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner import log, paths
from runner.kernel import files

Prefix = Callable[[str], str]
_INTERVAL_MS = 200
_LONGEST_LINE = 64 * 1024


@contextmanager
def follow(store: paths.Store, key: str, names: tuple[str, ...], *, prefix: Prefix, output: int = 1) -> Iterator[None]:
    """While the block runs, write each new line of the named services' logs to `output` behind `prefix(name)`; the rest at its end."""
    if not names:
        yield
        return
    stop_r, stop_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(stop_w)
            _tail([_Followed(store.job_log(key, name), prefix(name).encode()) for name in names], stop_r, output)
        finally:
            os._exit(0)
    os.close(stop_r)
    try:
        yield
    finally:
        os.close(stop_w)
        os.waitpid(pid, 0)


def _tail(logs: list["_Followed"], stop: int, output: int) -> None:
    poll = select.poll()
    poll.register(stop, select.POLLIN | select.POLLHUP)
    stopped = False
    while not stopped:
        stopped = bool(poll.poll(_INTERVAL_MS))
        for each in logs:
            each.show(output, all_of_it=stopped)


class _Followed:
    """One service's log and how far it was shown."""

    def __init__(self, path: str, prefix: bytes) -> None:
        self._path, self._prefix = path, prefix
        try:
            self._offset = int(files.read(f"{path}.shown"))
        except (FileNotFoundError, ValueError):
            self._offset = 0

    def show(self, output: int, *, all_of_it: bool) -> None:
        """Write complete lines, at the end also an incomplete one, and remember the place."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            while True:
                chunk = os.pread(fd, 1024**2, self._offset)
                end = chunk.rfind(b"\n") + 1
                if not end and (all_of_it or len(chunk) > _LONGEST_LINE):
                    end = len(chunk) - _begun(chunk, log.hidden())
                if not end:
                    break
                self._write(output, chunk[:end])
                self._offset += end
        finally:
            os.close(fd)
        files.write_atomic(f"{self._path}.shown", str(self._offset).encode(), durable=False)

    def _write(self, output: int, data: bytes) -> None:
        text = log.quote(log.masked(data.removesuffix(b"\n").decode(errors="backslashreplace")))
        view = memoryview(b"".join(self._prefix + line.encode(errors="replace") + b"\n" for line in text.split("\n")))
        while view:
            view = view[os.write(output, view) :]


def _begun(chunk: bytes, secrets: tuple[str, ...]) -> int:
    """Return how many bytes at the end of a chunk may be the beginning of a secret."""
    longest = 0
    for secret in secrets:
        raw = secret.encode(errors="replace")
        longest = max(longest, next((size for size in range(len(raw) - 1, 0, -1) if chunk.endswith(raw[:size])), 0))
    return longest

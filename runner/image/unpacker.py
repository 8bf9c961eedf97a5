"""Unpacking in a namespace of the layers' owner, while their blobs are still arriving.

One server process enters the namespace before the pull has threads, and forks a worker for each layer that it is told about. A worker
reads the file that a download is writing, and stops for more where the file ends; a pipe tells it that there is more, and that this was
all. So a byte is in memory once, and a layer is unpacked when its last byte is here. All of them end with the process that started them.
"""

import io
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from runner.image import below, bounds, layer_blob
from runner.kernel import answers, files, process, signals, userns
from runner.model import IdMap

_MORE, _ALL, _GO = b".", b"!", b"g"  # what a worker is told
_ASKS = b"?"  # a worker's first byte when it needs the layers below; else its answer begins at once
_MESSAGE_BYTES = 8192
_READ_BYTES = 256 * 1024


class Unpacker:
    """The server. Usable from several threads once it is entered; ends with all its workers when it is left."""

    def __init__(self, id_map: IdMap, stack: Sequence[int]) -> None:
        """`stack` are descriptors of the layers' directories, lowest first: of those that are whole, and empty ones to unpack into.

        The caller keeps them open until `__exit__`. It must be single-threaded until `__enter__` has returned.
        """
        self._id_map, self._stack = id_map, stack
        self._pid = 0

    def __enter__(self) -> "Unpacker":
        """Start the server and wait until it is in the namespace; OSError when it cannot be."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, writer = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            process.die_with(parent)
            process.close_others(keep=(0, 1, 2, theirs.fileno(), writer, *self._stack))
            _serve(theirs, writer, self._id_map, self._stack)
        theirs.close()
        os.close(writer)
        try:
            with open(reader, "rb") as file:
                answers.decode(file.read())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the server; its workers, which nobody asks any more, end with it."""
        self.kill()
        self._control.close()
        os.waitpid(self._pid, 0)

    def kill(self) -> None:
        """End the server and all its workers now; whoever waits for one is told."""
        os.kill(self._pid, signals.SIGKILL)

    def start(self, at: int, file: int, *, diff_id: str, what: str) -> "Filling":
        """Begin to unpack, into the directory at `at` of the stack, what is in the file and what is still to come there.

        Whatever an earlier try left in the directory goes. `file` stays the caller's and may be closed at once.
        """
        progress_r, progress_w = os.pipe2(os.O_CLOEXEC)
        answer_r, answer_w = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._control, [json.dumps([at, diff_id, what]).encode()], [file, progress_r, answer_w])
        except BaseException:
            os.close(progress_w)
            os.close(answer_r)
            raise
        finally:
            os.close(progress_r)
            os.close(answer_w)
        os.set_blocking(progress_w, False)
        return Filling(progress_w, answer_r)


class Filling:
    """One layer on its way; one thread has it."""

    def __init__(self, progress: int, answer: int) -> None:
        self._progress, self._answer = progress, answer

    def more(self) -> None:
        """Say that the file has grown. Never blocks."""
        self._say(_MORE)

    def finish(self, await_below: Callable[[], None]) -> tuple[bool, int]:
        """Say that the file has all, and wait for the layer: (whether its look depends on the layers below, bytes on the disk).

        `await_below` waits for the layers below and is called only if they matter. Raises what made unpacking fail. Call once.
        """
        try:
            self._say(_ALL)
            with open(self._answer, "rb", closefd=False) as file:
                if file.peek(1)[:1] == _ASKS:
                    file.read(1)
                    await_below()
                    self._say(_GO)
                depends, size = answers.decode(file.read())
                return bool(depends), int(size)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of a layer that is not wanted any more; its worker ends. Idempotent."""
        for fd in (self._progress, self._answer):
            if fd >= 0:
                os.close(fd)
        self._progress = self._answer = -1

    def _say(self, word: bytes) -> None:
        try:
            os.write(self._progress, word)
        except BlockingIOError:
            if word != _MORE:  # it has thousands of notes of there being more to read first
                os.set_blocking(self._progress, True)
                os.write(self._progress, word)
        except BrokenPipeError:
            pass  # it has ended early, and `finish` reads why


def _serve(control: socket.socket, ready: int, id_map: IdMap, stack: Sequence[int]) -> NoReturn:
    """Be the server: enter the namespace, say so or why not, and fork a worker for each message until there are no more."""
    parent = os.getppid()

    def enter() -> None:
        userns.enter(id_map)
        process.die_with(parent)  # again: our credentials have changed
        os.umask(0o022)
        signals.signal(signals.SIGCHLD, signals.SIG_IGN)  # workers answer by themselves, and nobody waits for them

    try:
        for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP):
            signals.signal(number, signals.SIG_DFL)
        os.write(ready, answers.encode(enter))
        os.close(ready)
        while True:
            message, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 3)
            if not message:
                break
            server = os.getpid()
            if os.fork() == 0:
                process.die_with(server)
                process.close_others(keep=(0, 1, 2, *fds, *stack))
                _work(fds, stack, *json.loads(message))
            for fd in fds:
                os.close(fd)
    finally:
        os._exit(0)


def _work(fds: Sequence[int], stack: Sequence[int], at: int, diff_id: str, what: str) -> NoReturn:
    file, progress, answer = fds
    process.answer_and_exit(answer, lambda: _fill(file, progress, answer, stack, at, diff_id=diff_id, what=what))


def _fill(file: int, progress: int, answer: int, stack: Sequence[int], at: int, *, diff_id: str, what: str) -> tuple[int, int]:
    """Unpack one layer into its directory; see Filling.finish for the result."""
    root = stack[at]
    _empty(root)
    limits = bounds.DEFAULT
    with bounds.in_time(what, limits):
        with io.BufferedReader(_Arriving(file, progress), _READ_BYTES) as arriving:
            implicit, size = layer_blob.unpack_verified(arriving, root, diff_id=diff_id, what=what, limits=limits)
        if implicit:
            os.write(answer, _ASKS)
            if _GO not in os.read(progress, 4096):
                raise _Abandoned
            below.inherit(root, implicit, list(reversed(stack[:at])))
    return int(bool(implicit)), size


def _empty(root: int) -> None:
    """Remove what an earlier try has left."""
    for name in os.listdir(root):
        os.fchdir(root)  # this process does nothing else with its directory
        files.remove_tree(name)


class _Abandoned(Exception):
    """Nobody wants the layer any more."""


class _Arriving(io.RawIOBase):
    """A file that somebody else is still writing: where it ends, it is waited for, until the pipe `progress` says that this was all."""

    def __init__(self, file: int, progress: int) -> None:
        self._file, self._progress = file, progress
        self._at = 0
        self._has_all = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence != os.SEEK_SET:
            raise io.UnsupportedOperation("nobody knows yet where the file ends")
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        while True:
            count = os.preadv(self._file, [buffer], self._at)
            if count or self._has_all:
                self._at += count
                return count
            words = os.read(self._progress, 65536)
            if not words:
                raise _Abandoned
            self._has_all = _ALL in words

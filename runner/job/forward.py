"""Ports of the machine that lead to a container: `docker run -p`.

The listening sockets are of the machine's network; the process that accepts from them is in the job's, and ends with the job's keeper. A
program of its own, since whoever made the job has memory that nobody should keep.
"""

from __future__ import annotations

import os
import sys

from runner import errors
from runner.job import keeper
from runner.kernel import process
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import NoReturn

    from runner.job.state import JobState

_MOST_CONNECTIONS = 256
_CONNECT_S = 10.0


class Port(NamedTuple):
    """One port: that of the container, and where the machine listens for it; `host` 0 is any that is free."""

    container: int
    address: str
    host: int


def publish(current: JobState, ip: str, wanted: Sequence[Port]) -> tuple[Port, ...]:
    """Listen at some ports for a container with the address `ip`, and return them with their numbers.

    UserError for a port that cannot be listened at. They are closed when the job ends.
    """
    import socket  # for those who publish: others do not pay for it

    listeners = []
    try:
        for port in wanted:
            listener = socket.socket(socket.AF_INET6 if ":" in port.address else socket.AF_INET)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((port.address, port.host))
                listener.listen(128)
            except OSError as e:
                raise errors.UserError(f"port {port.address}:{port.host} of this machine cannot be published: {e.strerror}") from e
        fds = [listener.fileno() for listener in listeners]
        targets = [(ip, port.container) for port in wanted]
        process.fork_call(lambda: _begin(current, fds, targets))
        return tuple(port._replace(host=listener.getsockname()[1]) for port, listener in zip(wanted, listeners, strict=True))
    finally:
        for listener in listeners:
            listener.close()


def _begin(current: JobState, fds: list[int], targets: list[tuple[str, int]]) -> None:
    """Leave a process in the job that accepts connections."""
    keeper_fd = keeper.enter(current.keeper)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError as e:
        keeper.blame(keeper_fd, e)
        raise
    if pid == 0:
        os.close(reader)
        process.answer_and_exit(writer, lambda: _become(fds, targets))
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read()
    if answer:  # it could not become another program, which closes the pipe
        from runner.kernel import answers

        answers.decode(answer)


def _become(fds: list[int], targets: list[tuple[str, int]]) -> NoReturn:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in fds:
        os.set_inheritable(fd, True)
    pairs = list(zip(fds, targets, strict=True))
    program = f"import sys; sys.path[:0] = {sys.path!r}; from runner.job import forward; forward.serve({pairs!r})"
    os.execve(sys.executable, [sys.executable, "-IS", "-c", program], process.minimal_env())


def serve(pairs: Sequence[tuple[int, tuple[str, int]]]) -> NoReturn:
    """Accept from each listening descriptor and pass bytes on to its target. Never returns."""
    import signal
    import socket
    import threading

    room = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def accept(fd: int, target: tuple[str, int]) -> None:
        listener = socket.socket(fileno=fd)
        while True:
            room.acquire()
            try:
                client = listener.accept()[0]
            except OSError:  # whoever came has gone already
                room.release()
                continue
            threading.Thread(target=talk, args=(client, target), daemon=True).start()

    def talk(client: socket.socket, target: tuple[str, int]) -> None:
        try:
            with client, socket.create_connection(target, timeout=_CONNECT_S) as server:
                server.settimeout(None)
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
        except OSError:  # nobody listens in the container: the client sees its connection closed
            pass
        finally:
            room.release()

    for pair in pairs:
        threading.Thread(target=accept, args=pair, daemon=True).start()
    while True:
        signal.pause()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what one side says until it has said all, and tell the other side that."""
    import socket as sockets

    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(sockets.SHUT_WR)
    except OSError:  # one side has gone: the other one will notice
        for end in (source, sink):
            try:
                end.shutdown(sockets.SHUT_RDWR)
            except OSError:
                pass

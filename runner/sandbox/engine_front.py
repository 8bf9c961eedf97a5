"""What listens for Docker clients in the sidecar: starts its engine, and hands connections on to it.

The only program of dockless that runs inside a container, from a copy of this file, under the host's Python without anything else. It is
given listening sockets, so that clients wait in the kernel's queue while the engine starts and nobody's first connection fails.

    python3 -IS engine_front.py PLAN        PLAN: JSON, as sandbox.engine.plan makes it
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_ENGINE_START_S = 60.0
_PIECE_BYTES = 64 * 1024
# what only BuildKit's clients ask for (moby: api/server/router/build, .../session, .../grpc)
_BUILDKIT = re.compile(rb"POST (?:/v[0-9.]+)?/(?:(session|grpc)|build\?(?:[^ ]*&)?version=2)[ ?&]")
# podman 4.3 answers a client that waits for removal with 0 whatever the container's code was: it is asked for the next exit instead, and
# the answer is held back until the container has gone (docker run --rm)
_WAIT_REMOVED = re.compile(rb"(POST (?:/v[0-9.]+)?/containers/([\w.-]+)/wait\?(?:[^ ]*&)?condition=)removed(?=[ &])")
# its health checks are timers of systemd, which is not here
_START = re.compile(rb"POST (?:/v[0-9.]+)?(?:/libpod)?/containers/([\w.-]+)/(?:re)?start[ ?]")
# it keeps what builds have cached as images, which `docker system prune` asks for by another name
_PRUNE_BUILDS = re.compile(rb"POST (?:/v[0-9.]+)?/build/prune[ ?]")
_GONE_S = 10.0
_HEALTH_DEFAULT_S = 30.0
_checked: set[str] = set()  # containers whose health is looked after
_UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def main(text: str) -> int:
    """Serve until the engine ends; return its exit code."""
    plan: dict[str, Any] = json.loads(text)
    listeners = [socket.socket(fileno=fd) for fd in plan["listeners"]]
    for command in plan["before"]:
        _run_if_there(command)
    engine = subprocess.Popen(plan["engine"], stdin=subprocess.DEVNULL, env=plan["env"])
    if not _wait_until_ready(plan["socket"], engine):
        print(f"{plan['engine'][0]} did not come up", file=sys.stderr, flush=True)
        engine.kill()
        return engine.wait() or 1
    for command in plan["after"]:
        _run_if_there(command)
    if plan["tls"]:
        # stunnel takes its listening socket as systemd would pass it (sd_listen_fds(3)): as descriptor 3
        fd = plan["tls_listener"]
        words = f"export LISTEN_PID=$$ LISTEN_FDS=1; exec {plan['tls']} 3<&{fd} {fd}<&-"
        subprocess.Popen(["/bin/sh", "-c", words], stdin=subprocess.DEVNULL, pass_fds=(fd,))
        os.close(fd)
    for listener in listeners:
        threading.Thread(target=_accept, args=(listener, plan["socket"], plan["no_buildkit"]), daemon=True).start()
    return engine.wait()


def _run_if_there(command: dict[str, Any]) -> None:
    """Run a command that puts an earlier job's leftovers in order, if the file or directory that it is about is not empty."""
    if _content(command["if"]) not in ("", command["empty"]):
        subprocess.run(command["run"], stdin=subprocess.DEVNULL, check=False)


def _content(path: str) -> str:
    """Return a file's text or a directory's names, "" for nothing."""
    try:
        if os.path.isdir(path):
            return " ".join(os.listdir(path))
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _wait_until_ready(path: str, engine: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + _ENGINE_START_S
    while time.monotonic() < deadline and engine.poll() is None:
        try:
            _connect(path).close()
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _accept(listener: socket.socket, path: str, no_buildkit: str) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve, args=(client, path, no_buildkit), daemon=True).start()


def _serve(client: socket.socket, path: str, no_buildkit: str) -> None:
    """Hand one connection on to the engine, both ways and each way to its own end: attached containers close one before the other."""
    with client:
        try:
            engine = _connect(path)
        except OSError:
            return
        with engine:
            of_podman = _OfPodman(path, no_buildkit) if no_buildkit else None
            back = threading.Thread(target=_copy, args=(engine, client, of_podman.answered if of_podman else None), daemon=True)
            back.start()
            _copy(client, engine, of_podman.asked if of_podman else None)
            back.join()


class _OfPodman:
    """What is different about one connection to podman.

    A client sends the head of a request at once, after the answer to the one before.
    """

    def __init__(self, path: str, no_buildkit: str) -> None:
        self._path, self._no_buildkit = path, no_buildkit
        self._waits_for = ""

    def asked(self, piece: bytes, client: socket.socket) -> bytes:
        """Return what is sent to podman for a piece of a client's. Raises OSError when the client has been answered."""
        if not piece.startswith(b"POST "):
            return piece
        if asked := _BUILDKIT.match(piece):
            _refuse(client, asked, self._no_buildkit)
            raise ConnectionAbortedError
        if _PRUNE_BUILDS.match(piece):
            client.sendall(_answer("200 OK", {"CachesDeleted": [], "SpaceReclaimed": 0}))
            return b""
        if started := _START.match(piece):
            threading.Thread(target=_check_health, args=(self._path, started[1].decode()), daemon=True).start()
        waits = _WAIT_REMOVED.match(piece)
        self._waits_for = waits[2].decode() if waits else ""
        return _WAIT_REMOVED.sub(rb"\1next-exit", piece, 1) if waits else piece

    def answered(self, piece: bytes, engine: socket.socket) -> bytes:
        """Return what is sent to the client for a piece of podman's; not before a container that it waits for has gone."""
        if self._waits_for and b'"StatusCode"' in piece:
            deadline = time.monotonic() + _GONE_S
            while time.monotonic() < deadline and _ask(self._path, f"containers/{self._waits_for}/json")[0] == 200:
                time.sleep(0.02)
            self._waits_for = ""
        return piece


def _check_health(path: str, container: str) -> None:
    """Run the health checks of a container that is being started, as often as it asks for, until it is removed."""
    status, found = _ask(path, f"containers/{container}/json")
    identity, check = found.get("Id", ""), found.get("Config", {}).get("Healthcheck") or {}
    if not check.get("Test") or check["Test"] == ["NONE"] or identity in _checked:
        return
    _checked.add(identity)
    while status == 200:
        time.sleep(check.get("Interval", 0) / 1e9 or _HEALTH_DEFAULT_S)
        status, found = _ask(path, f"containers/{identity}/json")
        if found.get("State", {}).get("Running"):
            _ask(path, f"containers/{identity}/healthcheck")
    _checked.discard(identity)


def _ask(path: str, what: str) -> tuple[int, dict[str, Any]]:
    """Ask podman's own API; return the status and the answer, (0, {}) when it does not answer."""
    try:
        with _connect(path) as engine:
            engine.sendall(f"GET /v4.0.0/libpod/{what} HTTP/1.0\r\nHost: podman\r\n\r\n".encode())
            text = b"".join(iter(lambda: engine.recv(_PIECE_BYTES), b""))
        head, _, body = text.partition(b"\r\n\r\n")
        answer = json.loads(body)
        return int(head.split()[1]), answer if isinstance(answer, dict) else {}
    except (OSError, ValueError, IndexError):
        return 0, {}


def _copy(source: socket.socket, target: socket.socket, change: "Callable[[bytes, socket.socket], bytes] | None" = None) -> None:
    try:
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(change(piece, source) if change else piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one of the two has gone: nothing is owed to the other
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def _refuse(client: socket.socket, asked: "re.Match[bytes]", words: str) -> None:
    """Answer a client of BuildKit, which shows only what the build itself is answered: its session is left to wait for that."""
    if asked[1] == b"session":
        client.sendall(_UPGRADED)
        while client.recv(_PIECE_BYTES):
            pass
        return
    client.sendall(_answer("501 Not Implemented", {"message": words}, "Connection: close\r\n"))


def _answer(status: str, value: dict[str, Any], more: str = "") -> bytes:
    body = json.dumps(value).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

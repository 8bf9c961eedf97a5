"""The program in front of a sidecar's engine, with an engine that is a few lines of Python."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.sandbox import engine_front

# answers each connection with what it got until the client's end of it was closed, and how many bytes that was
ECHO = """
import socket, sys, threading
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()
def serve(client):
    got = b""
    while piece := client.recv(65536):
        got += piece
        client.sendall(piece)
    client.sendall(b"%d" % len(got)); client.close()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
Start = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the front of the echoing engine, changed by what its plan is to be otherwise; returns the socket that it listens on."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(**changes: Any) -> Path:
        place, own = tmp_path / "front.sock", tmp_path / "engine.sock"
        listeners = [socket.socket(socket.AF_UNIX), socket.socket()]
        listeners[0].bind(str(place))
        for listener in listeners:
            listener.listen()
        plan = {
            "listeners": [listener.fileno() for listener in listeners], "socket": str(own), "tls": "", "tls_listener": -1, "env": {},
            "engine": [sys.executable, "-c", ECHO, str(own)], "before": [], "after": [], "no_buildkit": "", **changes,
        }  # fmt: skip
        argv = [sys.executable, "-IS", engine_front.__file__, json.dumps(plan)]
        running.append(subprocess.Popen(argv, pass_fds=plan["listeners"], start_new_session=True))
        for listener in listeners:
            listener.close()
        return place

    yield begin
    for front in running:
        os.killpg(front.pid, signal.SIGKILL)  # with its engine
        front.wait()


def talk(place: Path, words: bytes) -> bytes:
    """Say something, close that end, and return all that comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(place))

        def say() -> None:
            client.sendall(words)
            client.shutdown(socket.SHUT_WR)

        saying = threading.Thread(target=say, daemon=True)
        saying.start()
        heard = b"".join(iter(lambda: client.recv(65536), b""))
        saying.join()
        return heard


def test_client_that_comes_before_the_engine_is_served(start: Start) -> None:
    assert talk(start(), b"GET /_ping HTTP/1.1\r\n\r\n") == b"GET /_ping HTTP/1.1\r\n\r\n23"


def test_everything_arrives_in_order_after_the_client_has_closed_its_end(start: Start) -> None:
    words = os.urandom(3 * 1024**2)
    assert talk(start(), words) == words + b"%d" % len(words)


def test_clients_do_not_wait_for_each_other(start: Start) -> None:
    place = start()
    with socket.socket(socket.AF_UNIX) as idle:
        idle.settimeout(30)
        idle.connect(str(place))
        idle.sendall(b"first")
        assert idle.recv(16) == b"first"
        assert talk(place, b"second") == b"second6"
        idle.shutdown(socket.SHUT_WR)
        assert idle.recv(16) == b"5"


@pytest.mark.parametrize("path", [b"/v1.41/build?t=x&version=2", b"/build?version=2&t=x", b"/v1.41/grpc"])
def test_buildkit_is_refused_with_a_sentence_where_the_engine_has_none(start: Start, path: bytes) -> None:
    answer = talk(start(no_buildkit="use another engine"), b"POST " + path + b" HTTP/1.1\r\nHost: docker\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 501 ")
    assert json.loads(body) == {"message": "use another engine"}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (b"/v1.41/containers/abc/wait?condition=removed HTTP/1.1", b"/v1.41/containers/abc/wait?condition=next-exit HTTP/1.1"),
        (b"/containers/abc/wait?x=y&condition=removed&z=1 HTTP/1.1", b"/containers/abc/wait?x=y&condition=next-exit&z=1 HTTP/1.1"),
        (b"/v1.41/containers/abc/wait?condition=not-running HTTP/1.1", b"/v1.41/containers/abc/wait?condition=not-running HTTP/1.1"),
        (b"/v1.41/containers/removed/wait HTTP/1.1", b"/v1.41/containers/removed/wait HTTP/1.1"),
    ],
)
def test_podman_is_asked_for_the_next_exit_where_a_client_waits_for_removal(start: Start, asked: bytes, sent: bytes) -> None:
    place = start(no_buildkit="this is podman")
    assert talk(place, b"POST " + asked + b"\r\n\r\n").startswith(b"POST " + sent + b"\r\n\r\n")


def test_dockerd_is_asked_for_what_the_client_asks(start: Start) -> None:
    words = b"POST /containers/abc/wait?condition=removed HTTP/1.1\r\n\r\n"
    assert talk(start(), words).startswith(words)


def test_build_cache_of_podman_is_empty_and_the_connection_goes_on(start: Start) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(start(no_buildkit="this is podman")))
        client.sendall(b"POST /v1.41/build/prune HTTP/1.1\r\n\r\n")
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"CachesDeleted": [], "SpaceReclaimed": 0}
        client.sendall(b"next")
        assert client.recv(65536) == b"next"


def test_session_of_buildkit_waits_for_its_build_to_be_refused(start: Start) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(start(no_buildkit="use another engine")))
        client.sendall(b"POST /v1.41/session HTTP/1.1\r\nUpgrade: h2c\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 101 ")
        client.sendall(b"PRI * HTTP/2.0")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(64) == b""


@pytest.mark.parametrize(
    "path", [b"/v1.41/build?t=version=2", b"/v1.41/build?version=1", b"/v1.41/sessions", b"/v1.41/images/create?x=/grpc"]
)
def test_other_requests_reach_an_engine_without_buildkit(start: Start, path: bytes) -> None:
    words = b"POST " + path + b" HTTP/1.1\r\n\r\n"
    assert talk(start(no_buildkit="use another engine"), words).startswith(words)


def test_second_request_of_a_connection_is_looked_at_too(start: Start) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(start(no_buildkit="use another engine")))
        client.sendall(b"HEAD /_ping HTTP/1.1\r\n\r\n")
        assert client.recv(1024).startswith(b"HEAD /_ping")
        client.sendall(b"POST /build?version=2 HTTP/1.1\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 501 ")


def test_with_buildkit_everything_goes_through(start: Start) -> None:
    assert talk(start(), b"POST /v1.41/session HTTP/1.1\r\n\r\n").startswith(b"POST /v1.41/session")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\r\nX: y"])
def test_container_whose_name_is_none_is_the_engines_business(start: Start, name: bytes) -> None:
    """What is no name is not looked after, and the connection lives on: a thread that ended would have left the client waiting."""
    request = b"POST /v1.41/containers/%b/start HTTP/1.1\r\n\r\n" % name
    assert talk(start(no_buildkit="this is podman"), request).startswith(request)


def test_leftovers_are_put_in_order_only_where_there_are_some(start: Start, tmp_path: Path) -> None:
    full, empty, done = tmp_path / "full.json", tmp_path / "empty.json", tmp_path / "done"
    full.write_text('["a container"]\n')
    empty.write_text("[]\n")

    def command(path: Path, word: str) -> dict[str, Any]:
        return {"run": ["sh", "-c", f"echo {word} >> {done}"], "if": str(path), "empty": "[]"}

    before = [command(full, "full"), command(empty, "empty"), command(tmp_path / "nowhere", "nowhere"), command(tmp_path, "directory")]
    talk(start(before=before, after=[command(full, "after")]), b"x")
    assert done.read_text().split() == ["full", "directory", "after"]


def test_engine_that_does_not_start_ends_the_front_with_its_name_and_code(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "front.sock"))
        listener.listen()
        plan = {
            "listeners": [listener.fileno()], "socket": str(tmp_path / "engine.sock"), "tls": "", "env": {}, "before": [], "after": [],
            "engine": [sys.executable, "-c", "raise SystemExit(7)"],
        }  # fmt: skip
        argv = [sys.executable, "-IS", engine_front.__file__, json.dumps(plan)]
        done = subprocess.run(argv, pass_fds=[listener.fileno()], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7
    assert done.stderr == f"{sys.executable} did not come up\n"

"""Is a service up? Asked with real connections on the loopback."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from runner.job import health

HOST = "127.0.0.1"


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def closed() -> Iterator[int]:
    """Yield a port that is taken and refuses."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """Yield a port that neither accepts nor refuses: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def probe(*targets: tuple[str, tuple[int, ...]], timeout_s: float = 30) -> dict[str, tuple[str, list[str]]]:
    found = health.probe([(name, HOST, ports) for name, ports in targets], timeout_s=timeout_s)
    return {name: (problem, tried) for name, problem, tried in found}


def test_a_port_that_accepts_is_health() -> None:
    with listening() as port:
        assert probe(("db", (port,))) == {"db": ("", [])}


def test_any_of_several_ports_is_enough() -> None:
    with closed() as bad, listening() as good:
        assert probe(("db", (bad, good)))["db"][0] == ""
        assert probe(("db", (good, bad)))["db"][0] == ""


def test_a_service_without_ports_cannot_be_asked() -> None:
    with listening() as port:
        assert probe(("none", ()), ("db", (port,))) == {"none": ("has no exposed ports", []), "db": ("", [])}


def test_a_port_that_refuses_to_the_end_is_reported_with_what_was_tried() -> None:
    with closed() as port:
        problem, tried = probe(("db", (port,)), timeout_s=0.1)["db"]
    assert problem == "did not accept a connection within 0 s"
    assert tried
    assert set(tried) == {f"dial tcp {HOST}:{port}: Connection refused"}


def test_no_time_is_still_one_try() -> None:
    with listening() as good, closed() as bad:
        found = probe(("up", (good,)), ("down", (bad,)), timeout_s=0)
    assert found["up"][0] == ""
    assert found["down"][0]


def test_only_the_last_tries_are_kept() -> None:
    with ExitStack() as stack:
        ports = tuple(stack.enter_context(closed()) for _ in range(20))
        _, tried = probe(("db", ports), timeout_s=0.6)["db"]
    assert len(tried) == 20


def test_a_port_that_opens_later_is_waited_for() -> None:
    with socket.socket() as server:
        server.bind((HOST, 0))
        opening = threading.Timer(0.3, server.listen)
        opening.start()
        found = probe(("db", (server.getsockname()[1],)))
        opening.join()
    assert found["db"][0] == ""


def test_each_service_is_judged_by_itself_and_reported_in_its_order() -> None:
    with listening() as good, closed() as bad:
        found = health.probe([("b", HOST, (bad,)), ("a", HOST, (good,)), ("c", HOST, ())], timeout_s=0.1)
    assert [(name, bool(problem)) for name, problem, _ in found] == [("b", True), ("a", False), ("c", True)]


@pytest.mark.timeout(20)
def test_services_that_say_nothing_do_not_keep_others_from_being_asked() -> None:
    with ExitStack() as stack:
        mute = tuple(stack.enter_context(silent()) for _ in range(12))
        server = stack.enter_context(socket.socket())
        server.bind((HOST, 0))
        opening = threading.Timer(0.5, server.listen)
        opening.start()
        found = probe(("mute", mute), ("db", (server.getsockname()[1],)), timeout_s=6)
        opening.join()
    assert found["db"][0] == ""
    assert "i/o timeout" in found["mute"][1][-1]


def test_no_socket_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with closed() as bad, listening() as good, silent() as mute:
        probe(("a", (bad, good, mute)), ("b", (mute,)), timeout_s=0.2)
    assert len(os.listdir("/proc/self/fd")) == before

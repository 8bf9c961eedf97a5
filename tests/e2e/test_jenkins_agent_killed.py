"""An agent that is ended at any point of its start, its run and its end: no process stays, and the next start of its name works.

Each way to end it is tried at points at even distances over its system calls; DOCKLESS_KILL_POINTS says at how many.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_jenkins_agent import _ECHO, Node
from tests.support import halting
from tests.support.engine import Engine, processes_of, wait_until
from tests.support.images import build_image, busybox_layer
from tests.support.jenkins_controller import Controller
from tests.support.registries import Answer, LyingRegistry, Request

POINTS = int(os.environ.get("DOCKLESS_KILL_POINTS", "8"))


def _kill(agent: Controller) -> None:
    agent.process.kill()


def _ask(agent: Controller) -> None:
    agent.process.terminate()


def _hang_up(agent: Controller) -> None:
    agent.stdin.close()


WAYS: dict[str, Callable[[Controller], None]] = {"SIGKILL": _kill, "SIGTERM": _ask, "end of stdin": _hang_up, "cookie": Controller.kill}


class Sweep:
    """Starts of one agent that stop at chosen points."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node, self._trace = node, directory / "stopping"
        for number in range(2):  # the first one makes what later ones find
            trace = directory / f"trace-{number}"
            agent = node.start(_ECHO, "--network", "default", wrap=partial(halting.traced, trace=trace))
            assert self._play(agent) is None
            assert agent.wait() == 0, agent.log()
        self.points = halting.points(trace, since=str(node.engine.state), count=POINTS)

    def stopped(self) -> Iterator[tuple[halting.Point, Controller, Callable[[], None]]]:
        """Yield, for each point, an agent that has stopped there, and what joins its reader when it has ended."""
        reached = 0
        for point in self.points:
            self._trace.unlink(missing_ok=True)
            agent = self.node.start(_ECHO, "--network", "default", wrap=partial(halting.stopping, point=point, trace=self._trace))
            reader = threading.Thread(target=self._play, args=(agent,), daemon=True)
            reader.start()
            if not halting.wait_for_stop(agent.process, self._trace):  # another run does not make the same calls, to the last one
                reader.join(60)
                agent.wait()
                continue
            reached += 1

            def finish(reader: threading.Thread = reader, point: halting.Point = point) -> None:
                reader.join(60)
                assert not reader.is_alive(), f"{point}: somebody holds the channel"

            yield point, agent, finish
        assert reached >= POINTS // 4  # on a busy machine fewer calls are made where they were

    @staticmethod
    def _play(agent: Controller) -> None:
        """Do what a controller does: wait for the agent, then close its channel."""
        try:
            agent.handshake()
            agent.stdin.close()
        except (EOFError, OSError, ValueError):  # it has been ended
            return


@pytest.fixture
def node(engine: Engine, tmp_path: Path) -> Node:
    return Node(engine, tmp_path / "agent")


@pytest.fixture
def sweep(node: Node, tmp_path: Path) -> Sweep:
    return Sweep(node, tmp_path)


def _works(node: Node) -> None:
    agent = node.start(_ECHO)
    assert agent.handshake() == b""
    agent.stdin.close()
    assert agent.wait() == 0, agent.log()


def _is_forgotten(agent: Controller) -> bool:
    return wait_until(lambda: agent.marked() == [])


@pytest.mark.parametrize("way", WAYS)
def test_agent_that_is_ended_at_any_point_leaves_no_process_and_the_next_one_starts(sweep: Sweep, way: str) -> None:
    for point, agent, finish in sweep.stopped():
        WAYS[way](agent)
        halting.let_go(agent.process)
        finish()
        agent.wait()
        assert wait_until(lambda: processes_of(sweep.node.engine.state) == [], 20), (point, sweep.node.engine.leftovers())
        assert _is_forgotten(agent), point
        if way != "SIGKILL":
            assert wait_until(lambda: sweep.node.engine.jobs() == []), (point, agent.log())
    _works(sweep.node)
    assert sweep.node.engine.leftovers() == []


def test_start_takes_over_from_one_that_is_at_any_point(sweep: Sweep) -> None:
    for point, first, finish in sweep.stopped():
        second = sweep.node.start(_ECHO)
        halting.let_go(first.process)
        assert second.handshake() == b"", point
        finish()
        first.wait()
        assert second.process.poll() is None, point
        second.stdin.close()
        assert second.wait() == 0, (point, second.log())
        assert wait_until(lambda: sweep.node.engine.leftovers() == [], 20), point


@pytest.mark.parametrize("is_asked", [True, False])
def test_agent_that_waits_for_its_image_ends_when_it_is_asked_and_when_another_one_starts(node: Node, is_asked: bool) -> None:
    registry, image = LyingRegistry(), build_image([busybox_layer()])
    registry.add(image, "team/app", "v1")

    def stall(request: Request, answer: Answer) -> Answer | None:
        return answer._replace(delay_s=60.0) if image.layer_digests[0] in request.path else None

    registry.lie = stall
    with registry.running() as (host, asked):
        node.engine.config.write_text(json.dumps({"registries": {host: {"plain_http": True}}}))
        first = node.start(_ECHO, "--image", f"{host}/team/app:v1")
        assert wait_until(lambda: any("/blobs/" in request.path for request in asked), 30), first.log()
        if is_asked:
            first.process.terminate()
        else:
            _works(node)
        assert first.wait() == 143
    assert wait_until(lambda: node.engine.leftovers() == [], 20)

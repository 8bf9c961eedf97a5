"""`dockless jenkins agent --docker`: docker's own client in the agent reaches the agent's own API, and all of it ends with the agent."""

import os
from pathlib import Path

import pytest
import yaml

from tests.e2e.test_jenkins_agent import _PREAMBLE, Node
from tests.support import docker_jobs
from tests.support.docker_images import BASE
from tests.support.engine import Engine, processes_of, wait_until
from tests.support.jenkins_controller import Controller

_OPTIONS = ("--network", "default", "--docker")


@pytest.fixture
def node(engine: Engine, tmp_path: Path, docker_hub: str) -> Node:
    engine.config.write_text(yaml.safe_dump({**docker_jobs.settings("podman", docker_hub), "gc": {"high": 100}}))
    return Node(engine, tmp_path / "agent")


def _start(node: Node, script: str) -> Controller:
    return node.start(f"set -eu; {script}; printf '{_PREAMBLE}'; exec cat", *_OPTIONS)


def test_docker_of_the_agent_runs_containers_over_its_workspace(node: Node) -> None:
    inside = 'cat kept; echo back > "made by root"; id -u'
    agent = _start(
        node,
        f"""{{ docker version --format '{{{{.Server.Os}}}}'; echo of-agent > kept
        docker run --rm -v "$PWD:$PWD" -w "$PWD" {BASE} sh -c '{inside}'
        cat "made by root"; ls /var/run/docker.sock; }} >&2""",
    )
    assert agent.handshake() == b""
    made = (node.root / "made by root").stat()
    assert (made.st_uid, made.st_gid) == (os.getuid(), os.getgid())
    agent.stdin.close()
    assert agent.wait() == 0, agent.log()
    lines = agent.log().splitlines()
    assert [line for line in lines if line in ("linux", "of-agent", "0", "back", "/var/run/docker.sock")] == [
        "linux", "of-agent", "0", "back", "/var/run/docker.sock",
    ], agent.log()  # fmt: skip


def test_containers_of_the_agent_end_with_it_however_it_ends(node: Node) -> None:
    for end in (Controller.kill, lambda agent: agent.process.kill(), lambda agent: agent.stdin.close()):
        agent = _start(node, f"docker run -d --name left {BASE} sleep 1000 >&2")
        agent.handshake()
        assert b"sleep\x001000" in _commands(node)
        end(agent)
        agent.wait()
        assert wait_until(lambda: processes_of(node.engine.state) == [], 30), node.engine.leftovers()
    node.engine.run("gc")


def _commands(node: Node) -> bytes:
    return b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(node.engine.state))

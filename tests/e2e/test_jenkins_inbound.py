"""Agents that connect by themselves: their jar comes from the controller, their secret is in no command line, and stdin is no channel."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_jenkins_agent import Node
from tests.support import images, jenkins_inbound, jenkins_java
from tests.support.engine import Engine, processes_of, wait_until
from tests.support.gitlab_runner import REACHABLE, outward_address
from tests.support.jenkins_controller import Controller
from tests.support.jenkins_inbound import Inbound

_NAME, _SECRET = "node 1", "s3cret-of-a-node"
_BYTES = random.Random(6).randbytes(4 * 1024**2)


@pytest.fixture(scope="module")
def jar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return jenkins_java.build(tmp_path_factory.mktemp("jar"))


@pytest.fixture
def controller(jar: bytes) -> Iterator[Inbound]:
    with jenkins_inbound.serve(outward_address(), jar) as controller:
        yield controller


@pytest.fixture
def node(engine: Engine, tmp_path: Path) -> Node:
    engine.config.write_text(json.dumps(REACHABLE))
    return Node(engine, tmp_path / "agent", _NAME)


def _launch(node: Node, controller: Inbound, *way: str) -> Controller:
    """Start the command that the node's page shows."""
    secret = node.root.parent / "secret-file"
    secret.write_text(f"{_SECRET}\n")
    argv = ("java", "-Xmx64m", "-jar", "agent.jar", *way, "-secret", f"@{secret}", "-name", _NAME, "-workDir", str(node.root))
    return node.launch(*argv, options=("--network", "default"), env={"JENKINS_URL": controller.url})


@pytest.mark.parametrize("way", ["websocket", "tcp", "tunnel", "direct"])
def test_inbound_agent_connects_and_its_bytes_are_exact(node: Node, controller: Inbound, way: str) -> None:
    words = {
        "websocket": ("-url", controller.url, "-webSocket"),
        "tcp": ("-url", controller.url),
        "tunnel": ("-url", controller.url, "-tunnel", controller.tcp),
        "direct": ("-direct", controller.tcp, "-instanceIdentity", "MIIB", "-protocols", "JNLP4-connect"),
    }
    agent = _launch(node, controller, *words[way], "-noReconnect")
    agent.stdin.close()  # of a service it is /dev/null, and its end asks for nothing
    connection = controller.next()
    assert (connection.name, connection.secret) == (_NAME, _SECRET)
    assert connection.protocol == ("websocket" if way == "websocket" else "Protocol:JNLP4-connect")
    assert connection.echoed(_BYTES) == _BYTES
    connection.close()
    assert agent.wait() == 0, agent.log()
    assert "of Jenkins 2.500" in agent.log()
    assert "secret is given by file" in agent.log()
    assert (node.root / "remoting").stat().st_uid == os.getuid()


def test_inbound_agent_connects_again_in_its_container_and_ends_when_it_is_asked(node: Node, controller: Inbound) -> None:
    agent = _launch(node, controller, "-url", controller.url, "-webSocket")
    for _ in range(2):
        connection = controller.next()
        assert connection.echoed(b"alive") == b"alive"
        connection.close()
    assert controller.next().echoed(b"still") == b"still"
    agent.process.terminate()
    assert agent.wait() == 143
    assert agent.log().count("Terminated") == 2
    assert wait_until(lambda: processes_of(node.engine.state) == [])


def test_second_inbound_agent_of_a_name_takes_over(node: Node, controller: Inbound) -> None:
    first = _launch(node, controller, "-url", controller.url, "-webSocket")
    controller.next()
    second = _launch(node, controller, "-url", controller.url, "-webSocket", "-noReconnect")
    connection = controller.next()
    assert first.wait() == 143
    assert connection.echoed(b"second") == b"second"
    connection.close()
    assert second.wait() == 0


def test_images_own_entrypoint_is_told_what_the_environment_says(node: Node, controller: Inbound, tmp_path: Path) -> None:
    words_of = b'echo "$JENKINS_URL|$JENKINS_AGENT_NAME|$JENKINS_SECRET|$JENKINS_WEB_SOCKET"'
    entry = b"#!/bin/sh\n%s; wc -c < /usr/share/jenkins/agent.jar; pwd\n" % words_of
    layer = [images.file("usr/local/bin/jenkins-agent", entry, mode=0o755)]
    image = images.build_image(
        [images.busybox_layer(), layer], {"Entrypoint": ["/usr/local/bin/jenkins-agent"], "Env": [f"PATH={images.PATH}"]}
    )
    images.write_oci_layout(tmp_path / "layout", image, "v1")
    environ = {
        "JENKINS_URL": controller.url, "JENKINS_AGENT_NAME": _NAME, "JENKINS_SECRET": _SECRET, "JENKINS_WEB_SOCKET": "true",
        "JENKINS_AGENT_WORKDIR": str(node.root),
    }  # fmt: skip
    agent = node.launch(options=("--image", f"oci:{tmp_path / 'layout'}:v1"), env=environ)
    agent.stdin.close()
    words = b"".join(agent.stdout).decode()
    assert agent.wait() == 0, agent.log()
    assert words == f"{controller.url}|{_NAME}|{_SECRET}|true\n{len(controller.jar)}\n{node.root}\n"

"""Where an agent's jar comes from: its directory, this machine, the controller once for each version, or the image."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_jenkins_agent import Node
from tests.support import images, jenkins_jars
from tests.support.engine import Engine
from tests.support.jenkins_controller import Controller

_JAVA = '#!/bin/sh\necho "$2"; cat "$2" && echo; (: > "$2") 2>/dev/null || echo read-only; exit 0\n'


@pytest.fixture
def node(engine: Engine, tmp_path: Path) -> Node:
    (tmp_path / "agent").mkdir()
    java = tmp_path / "agent/java"
    java.write_text(_JAVA)
    java.chmod(0o755)
    return Node(engine, tmp_path / "agent")


@pytest.fixture
def jars() -> Iterator[jenkins_jars.Jars]:
    with jenkins_jars.serve() as jars:
        yield jars


def _said(agent: Controller) -> list[str]:
    agent.stdin.close()
    words = b"".join(agent.stdout).decode()
    assert agent.wait() == 0, agent.log()
    return words.splitlines()


def test_jar_is_fetched_once_for_each_version_and_bound_read_only(node: Node, jars: jenkins_jars.Jars) -> None:
    expected = ["/run/jenkins-agent/agent.jar", "PK\3\4 one", "read-only"]
    first = node.launch("./java", "-jar", "agent.jar", url=jars.url)
    assert _said(first) == expected
    assert "of Jenkins 2.500" in first.log()
    second = node.launch("./java", "-jar", "/usr/share/jenkins/agent.jar", "-url", jars.url)
    assert (_said(second), second.log()) == (expected, "")
    assert jars.answers == [200, 304]
    jars.content, jars.version, jars.modified = b"PK\3\4 two", "2.501", "Thu, 02 Jan 2025 00:00:00 GMT"
    assert _said(node.launch("./java", "-jar", "agent.jar", url=jars.url))[1] == "PK\3\4 two"
    jars.modified = "Fri, 03 Jan 2025 00:00:00 GMT"  # started anew, as it was
    assert _said(node.launch("./java", "-jar", "agent.jar", url=jars.url))[1] == "PK\3\4 two"
    directory = next(path for path in (node.engine.state / "jenkins").iterdir() if path.is_dir())
    assert len(os.listdir(directory)) == 2


def test_jar_is_where_jenkins_own_images_have_it(node: Node, jars: jenkins_jars.Jars, tmp_path: Path) -> None:
    image = images.build_image([images.busybox_layer()], {"Env": [f"PATH={images.PATH}"]})
    images.write_oci_layout(tmp_path / "layout", image, "v1")
    agent = node.launch("./java", "-jar", "agent.jar", url=jars.url, options=("--image", f"oci:{tmp_path / 'layout'}:v1"))
    assert _said(agent) == ["/usr/share/jenkins/agent.jar", "PK\3\4 one", "read-only"]


def test_stored_jar_serves_while_the_controller_does_not_answer(node: Node, jars: jenkins_jars.Jars) -> None:
    _said(node.launch("./java", "-jar", "agent.jar", url=jars.url))
    jars.status = 404
    agent = node.launch("./java", "-jar", "agent.jar", url=jars.url)
    assert _said(agent)[1] == "PK\3\4 one"
    assert "may be an older one" in agent.log()


def test_damaged_jar_is_fetched_again(node: Node, jars: jenkins_jars.Jars) -> None:
    _said(node.launch("./java", "-jar", "agent.jar", url=jars.url))
    stored = next((node.engine.state / "jenkins").glob("*/*.jar"))
    stored.chmod(0o600)
    stored.write_bytes(b"PK")
    assert _said(node.launch("./java", "-jar", "agent.jar", url=jars.url))[1] == "PK\3\4 one"
    assert jars.answers == [200, 200]


def test_login_page_is_no_jar(node: Node, jars: jenkins_jars.Jars) -> None:
    jars.content = b"<html>"
    agent = node.launch("./java", "-jar", "/nowhere/agent.jar", url=jars.url)
    assert _said(agent) == ["/nowhere/agent.jar", "read-only"]
    assert "has to be in the image" in agent.log()


def test_jar_of_the_agents_directory_or_of_this_machine_is_used_as_it_is(node: Node, jars: jenkins_jars.Jars, tmp_path: Path) -> None:
    for place in (node.root, tmp_path):
        (place / "remoting.jar").write_text(f"of {place.name}")
    assert _said(node.launch("./java", "-jar", "remoting.jar", url=jars.url)) == ["remoting.jar", f"of {node.root.name}"]
    outside = str(tmp_path / "remoting.jar")
    assert _said(node.launch("./java", "-jar", outside, url=jars.url)) == [outside, f"of {tmp_path.name}", "read-only"]
    assert jars.answers == []

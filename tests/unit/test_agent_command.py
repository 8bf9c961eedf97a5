"""The command that Jenkins would run, read without running it."""

import pytest

from runner.adapters.jenkins import agent, agent_command

INBOUND = (
    "java",
    "-jar",
    "agent.jar",
    "-url",
    "https://ci.example/jenkins",
    "-secret",
    "@s",
    "-name",
    "a b",
    "-webSocket",
    "-workDir",
    "/w",
)


def test_name_and_directory_are_what_the_command_says() -> None:
    environ = {"NODE_NAME": "other", "WORKSPACE": "/other"}
    assert agent_command.name(INBOUND, environ) == "a b"
    assert agent_command.work_directory(INBOUND, environ) == "/w"


def test_name_and_directory_are_else_what_jenkins_tells_its_children() -> None:
    environ = {"NODE_NAME": "node", "WORKSPACE": "/w"}
    assert agent_command.name(("java", "-jar", "agent.jar"), environ) == "node"
    assert agent_command.work_directory(("java", "-jar", "agent.jar"), environ) == "/w"
    assert agent_command.name((), {"JENKINS_AGENT_NAME": "image's"}) == "image's"
    assert agent_command.work_directory((), {"JENKINS_AGENT_WORKDIR": "/home/jenkins/agent"}) == "/home/jenkins/agent"
    assert agent_command.name((), {}) == agent_command.work_directory((), {}) == ""


def test_directory_of_the_ssh_launcher_may_have_spaces() -> None:
    script = 'cd "/srv/my agent" && java  -jar remoting.jar -workDir "$PWD"'
    assert agent_command.work_directory(("sh", "-c", script), {}) == "/srv/my agent"


@pytest.mark.parametrize(
    ("argv", "environ", "url"),
    [
        (INBOUND, {"AGENTJAR_URL": "http://other/jnlpJars/agent.jar"}, "https://ci.example/jenkins/jnlpJars/agent.jar"),
        (("java", "-jar", "agent.jar"), {"AGENTJAR_URL": "http://j/x.jar", "JENKINS_URL": "http://j/"}, "http://j/x.jar"),
        (("java", "-jar", "agent.jar"), {"JENKINS_URL": "http://j/"}, "http://j/jnlpJars/agent.jar"),
        (("java", "-jar", "agent.jar"), {}, ""),
    ],
)
def test_jar_is_the_controllers(argv: tuple[str, ...], environ: dict[str, str], url: str) -> None:
    assert agent_command.jar_url(argv, environ) == url


def test_only_the_jar_of_an_agent_is_one() -> None:
    assert agent_command.jar(("java", "-jar", "/opt/remoting.jar")) == "/opt/remoting.jar"
    assert agent_command.jar(("java", "-jar", "app.jar")) == agent_command.jar(("sh",)) == ""
    assert agent_command.with_jar(("java", "-jar", "agent.jar", "-text"), "/j.jar") == ("java", "-jar", "/j.jar", "-text")


def test_inbound_agents_have_no_channel_on_stdin() -> None:
    assert agent_command.is_inbound(INBOUND, {})
    assert agent_command.is_inbound((), {"JENKINS_URL": "http://j/"})
    assert not agent_command.is_inbound(("java", "-jar", "agent.jar"), {"JENKINS_URL": "http://j/"})
    assert not agent_command.is_inbound((), {})


def test_secret_of_the_environment_is_for_who_connects_by_itself() -> None:
    environ = {"JENKINS_SECRET": "x"}
    assert agent_command.hide(("java", "-jar", "agent.jar"), environ, secret=b"", files={}).argv == ("java", "-jar", "agent.jar")
    hidden = agent_command.hide((), environ, secret=b"", files={})
    assert (hidden.argv, hidden.env) == ((), (("JENKINS_SECRET", "x"),))
    assert agent_command.hide((), environ, secret=b"y", files={}).env == (("JENKINS_SECRET", "y"),)


def test_arguments_in_files_are_given_as_files() -> None:
    hidden = agent_command.hide(("java", "-cert", "@/c.pem", "@nowhere"), {}, secret=b"", files={"@/c.pem": b"PEM"})
    assert hidden.argv == ("java", "-cert", "@/run/jenkins-agent/0", "@nowhere")
    assert (hidden.files, hidden.was_shown) == ((("/run/jenkins-agent/0", b"PEM"),), False)


def test_every_name_has_a_key_of_its_own() -> None:
    keys = [agent.key(name) for name in ("node 1", "node-1", "Node 1", "nödé", "x" * 300, "x" * 301, "")]
    assert len(set(keys)) == len(keys)

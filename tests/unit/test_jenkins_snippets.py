"""What administrators copy into Jenkins and systemd is what the command takes."""

import configparser
import re
import shlex
from pathlib import Path

from runner.adapters.jenkins import agent_command
from runner.adapters.jenkins.agent import Asked
from runner.cli import agent_options

TREE = Path(__file__).resolve().parents[2]
TEMPLATES = TREE / "ci-templates/jenkins"
DOCUMENT = (TREE / "docs/jenkins-agent.md").read_text()


def asked(line: str, environ: dict[str, str] | None = None) -> Asked:
    program, *words = shlex.split(line)
    assert program.rpartition("/")[2] == "dockless"
    assert words[:2] == ["jenkins", "agent"]
    return agent_options.parse(words[2:], environ or {})


def test_command_on_the_controller() -> None:
    found = asked((TEMPLATES / "launch-by-command.txt").read_text())
    assert agent_command.jar(found.argv) == "/usr/share/jenkins/agent.jar"
    assert agent_command.work_directory(found.argv, {"WORKSPACE": "/w"}) == "/w"


def test_prefix_and_suffix_of_ssh_make_one_command_whatever_the_root_is_called() -> None:
    prefix, suffix = ((TEMPLATES / f"ssh-{name}.txt").read_text() for name in ("prefix", "suffix"))
    # SSHLauncher adds neither parameter that the suffix has, and no blank
    assert " -workDir " in suffix and " -jar-cache " in suffix
    found = asked(f'{prefix}cd "/srv/my agent" && java  -jar remoting.jar{suffix}')
    assert found.argv[:2] == ("sh", "-c")
    assert len(found.argv) == 3
    assert agent_command.work_directory(found.argv, {}) == "/srv/my agent"
    assert suffix in DOCUMENT


def test_unit_starts_an_inbound_agent_with_its_secret_in_a_file() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    unit.read_string((TEMPLATES / "jenkins-agent@.service").read_text().replace("\\\n", " "))
    service = unit["Service"]
    line = service["ExecStart"].replace("${JENKINS_URL}", "https://j/").replace("${AGENT_IMAGE}", "image").replace("%", "")
    found = asked(line)
    assert (found.image, found.name, found.secret_file) == ("image", "i", "d/secret")
    assert agent_command.is_inbound(found.argv, {})
    assert agent_command.work_directory(found.argv, {}) == found.work_directory
    assert service["KillMode"] == "mixed"


def test_document_and_readme_name_every_option_and_file() -> None:
    names = {next(name for name in option.names if f"`{name}`" in DOCUMENT) for option in agent_options.OPTIONS}
    assert len(names) == len(agent_options.OPTIONS)
    readme = (TEMPLATES / "README.md").read_text()
    assert [path.name for path in TEMPLATES.iterdir() if path.name != "README.md" and f"`{path.name}`" not in readme] == []
    assert re.findall(r"`-secret @FILE`", DOCUMENT)

"""Images as Pipelines use them: docker.build, image.tag, image.push, withRegistry, image.pull, agent { dockerfile }."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.support import images
from tests.support.docker_shim import Agent, install
from tests.support.engine import Engine
from tests.support.gitlab_runner import REACHABLE, outward_address
from tests.support.images import build_image, busybox_layer, directory, file
from tests.support.registries import docker_registry, make_certificates

USER, PASSWORD = "builder", "s3cret-of-the-registry"
BASE = build_image([busybox_layer(), [directory("old"), file("old/file", b"from the base\n")]], history=True)


class Registry(NamedTuple):
    """A registry with TLS by a CA of its own and a password; team/base:v1 is there."""

    host: str
    ca: Path


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    address = outward_address()
    certificates = make_certificates(tmp_path_factory.mktemp("tls"), address=address)
    with docker_registry(tmp_path_factory.mktemp("registry"), htpasswd=(USER, PASSWORD), tls=certificates, address=address) as host:
        images.push(BASE, f"{host}/team/base:v1", auth=(USER, PASSWORD), ca=certificates.ca)
        yield Registry(host, certificates.ca)


@pytest.fixture
def agent(engine: Engine, registry: Registry, tmp_path: Path) -> Agent:
    engine.config.write_text(yaml.safe_dump({**REACHABLE, "registries": {registry.host: {"ca_file": str(registry.ca)}}}))
    return install(engine, tmp_path)


@pytest.fixture
def entered(agent: Agent, registry: Registry) -> dict[str, str]:
    """The environment of a withRegistry block: a DOCKER_CONFIG of its own, into which Jenkins has logged in."""
    config = agent.temporary / "0f5f7a0e"
    config.mkdir(mode=0o700)
    (config / "config.json").write_text('{"HttpHeaders": {"X-Kept": "yes"}}')
    environ = {"DOCKER_CONFIG": str(config), "DOCKER_REGISTRY_URL": f"https://{registry.host}/v2/"}
    done = agent.docker("login", "-u", USER, "-p", PASSWORD, f"https://{registry.host}/v2/", env=environ)
    assert done.code == 0, done
    assert done.out == "Login Succeeded\n"
    return environ


def test_login_writes_where_jenkins_says_and_logout_takes_it_back(agent: Agent, registry: Registry, entered: dict[str, str]) -> None:
    path = Path(entered["DOCKER_CONFIG"]) / "config.json"
    written = json.loads(path.read_text())
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert written == {"HttpHeaders": {"X-Kept": "yes"}, "auths": {registry.host: {"auth": pair}}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert agent.answer("logout", f"https://{registry.host}", env=entered).startswith("Removing login credentials")
    assert json.loads(path.read_text())["auths"] == {}
    assert agent.answer("logout", registry.host, env=entered).startswith("Not logged in")


def test_login_with_a_wrong_password_fails_and_keeps_nothing(agent: Agent, registry: Registry) -> None:
    environ = {"DOCKER_CONFIG": str(agent.temporary / "new")}
    result = agent.docker("login", "-u", USER, "--password-stdin", registry.host, stdin="wrong\n", env=environ)
    assert result.code == 1
    assert "refuses user 'builder'" in result.err
    assert "wrong\n" not in result.out
    assert not (agent.temporary / "new").exists()


def test_image_is_built_tagged_pushed_forgotten_and_pulled_again(agent: Agent, registry: Registry, entered: dict[str, str]) -> None:
    (agent.workspace / "Dockerfile").write_text(
        f'FROM {registry.host}/team/base:v1\nARG WORD\nRUN echo "$WORD" > /word\nCMD ["cat", "/word"]\n'
    )
    built = agent.sh('docker build -t "$JD_IMAGE" --build-arg WORD=hello .', {**entered, "JD_IMAGE": "team/app:7"})
    assert built.code == 0, built
    assert agent.sh('docker inspect -f . "$JD_ID"', {"JD_ID": "team/app:7"}).code == 0
    assert agent.answer("run", "--rm", "team/app:7") == "hello\n"
    target = f"{registry.host}/team/app:7"
    environ = {**entered, "JD_ID": "team/app:7", "JD_TAGGED_IMAGE_NAME": target}
    assert agent.sh('docker tag "$JD_ID" "$JD_TAGGED_IMAGE_NAME"', environ).code == 0
    pushed = agent.sh('docker push "$JD_TAGGED_IMAGE_NAME"', environ)
    assert pushed.code == 0, pushed
    agent.answer("rmi", target)
    assert agent.docker("inspect", "-f", ".", target).code == 1
    assert agent.docker("pull", target).code == 1  # outside of the block nobody has credentials
    pulled = agent.sh('docker pull "$JD_TO_PULL"', {**entered, "JD_TO_PULL": target})
    assert pulled.code == 0, pulled
    assert pulled.out == f"{target}\n"
    assert f"{registry.host}/team/app" in agent.answer("images")
    assert agent.answer("images", "-q", target).strip() == agent.answer("inspect", "-f", "{{.Id}}", target).strip()[7:19]


def test_dockerfile_agent_builds_its_own_image_and_runs_in_it(agent: Agent, registry: Registry, entered: dict[str, str]) -> None:
    (agent.workspace / "ci").mkdir()
    (agent.workspace / "ci" / "Dockerfile").write_text(f"FROM {registry.host}/team/base:v1\nLABEL of=base\nRUN touch /made\n")
    name = "3b5d5c3712955042212316173ccf37be800fcf4d"
    built = agent.sh(f'docker build -t {name} -t {name}:also --label run=7 -f "ci/Dockerfile" "ci"', entered)
    assert built.code == 0, built
    assert agent.docker("inspect", "-f", ".", f"{name}:also").code == 0
    container = agent.inside(name)
    assert agent.answer("exec", container, "ls", "/made") == "/made\n"
    agent.end(container)


def test_secret_of_a_build_reaches_its_instruction_and_no_layer(agent: Agent, registry: Registry, entered: dict[str, str]) -> None:
    (agent.workspace / "Dockerfile").write_text(
        f"FROM {registry.host}/team/base:v1\n"
        "RUN --mount=type=secret,id=file --mount=type=secret,id=TOKEN cat /run/secrets/file /run/secrets/TOKEN | tr a-z b-za > /made\n"
    )
    secret = agent.temporary / "secret"
    secret.write_text("abc")
    environ = {**entered, "TOKEN": "xyz"}
    built = agent.sh(f"docker build -t team/secret:1 --secret id=file,src='{secret}' --secret id=TOKEN,env=TOKEN .", environ)
    assert built.code == 0, built
    assert "xyz" not in built.out
    assert agent.answer("run", "--rm", "team/secret:1", "sh", "-c", "cat /made; ls /run/secrets 2>/dev/null; true") == "bcdyza"


def test_failing_build_has_a_code_and_no_image(agent: Agent, registry: Registry, entered: dict[str, str]) -> None:
    (agent.workspace / "Dockerfile").write_text(f"FROM {registry.host}/team/base:v1\nRUN exit 9\n")
    assert agent.docker("build", "-t", "team/bad:1", ".", env=entered).code != 0
    assert agent.docker("inspect", "-f", ".", "team/bad:1").code == 1


@pytest.mark.parametrize("name", ["x;touch y", "x$(touch y)", "x`touch y`", "x\ntouch y", "../x", "-v", "X", "a b", "x|y", "x:a b"])
def test_names_cannot_inject(agent: Agent, name: str) -> None:
    for arguments in (
        ["tag", "toolbox", name], ["build", "-t", name, "."], ["pull", name], ["push", name], ["inspect", "-f", ".", name],
        ["run", "-d", name], ["run", "--name", name, "-d", "toolbox"], ["run", "-d", "--hostname", name, "toolbox", "true"],
        ["login", "-u", "u", "-p", "p", f"https://{name}/v2/"],
    ):  # fmt: skip
        if arguments[0] == "run" and name in ("X", "-v"):
            continue  # good names for a host, or options
        result = agent.docker(*arguments)
        assert result.code != 0, (arguments, result)
        assert "internal error" not in result.err
    assert [path.name for path in agent.workspace.iterdir()] == []
    assert agent.answer("ps", "-aq") == ""

"""Rules about images hold whoever asks: a person, a GitLab job and its services, a GitHub job, a Pipeline of Jenkins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support import docker_shim, signed
from tests.support.engine import Engine
from tests.support.github_runners import straight
from tests.support.gitlab_jobs import GitLab, job
from tests.support.images import build_image, busybox_layer
from tests.support.registries import LyingRegistry

APP = build_image([busybox_layer()])
EVIL = build_image([busybox_layer()], {"Cmd": ["/bin/sh"], "Labels": {"evil": "yes"}})


class Trusted(NamedTuple):
    """A registry with a good image, which a key signed, and another one; the rules that tell them apart."""

    good: str
    evil: str
    rules: list[dict[str, Any]]


@pytest.fixture
def trusted(tmp_path: Path) -> Iterator[Trusted]:
    key = signed.make_key(tmp_path, "cosign")
    server = LyingRegistry()
    server.add(APP, "team/app", "v1")
    server.add(EVIL, "evil/app", "v1")
    with server.running() as (host, _):
        made = signed.signature(key, signed.statement(f"{host}/team/app", APP.digest))
        server.add(made, "team/app", signed.tag(APP.digest))
        rules: list[dict[str, Any]] = [
            {"images": f"{host}/team/*", "rule": "signed", "keys": [str(key.public)]},
            {"images": "**", "rule": "deny"},
        ]
        yield Trusted(f"{host}/team/app:v1", f"{host}/evil/app:v1", rules)


@pytest.fixture
def stored(engine: Engine, trusted: Trusted) -> Trusted:
    """Both images are stored before there are rules."""
    for name in (trusted.good, trusted.evil):
        assert engine.run("pull", name).code == 0
    engine.config.write_text(yaml.safe_dump({"images": {"trust": trusted.rules}}))
    return trusted


def test_person_runs_what_is_trusted_and_nothing_else(engine: Engine, stored: Trusted) -> None:
    never = engine.run("run", "--pull", "never", "--image", stored.good, "--", "true")
    assert (never.code != 0, "no signature" in never.err) == (True, True), never
    done = engine.run("run", "--image", stored.good, "--", "echo", "trusted")
    assert (done.code, done.out) == (0, "trusted\n"), done
    again = engine.run("run", "--pull", "never", "--image", stored.good, "--", "echo", "trusted")
    assert (again.code, again.out) == (0, "trusted\n"), again
    for command in (["run", "--image", stored.evil, "--", "echo", "ran"], ["pull", stored.evil]):
        denied = engine.run(*command)
        assert denied.code != 0
        assert f"image {stored.evil} is denied on this machine" in denied.err
        assert "ran" not in denied.out


def test_gitlab_jobs_and_their_services_are_judged(gitlab: GitLab, stored: Trusted) -> None:
    gitlab.configure(images={"trust": stored.rules, "pull_policy": "if-not-present"})
    service = {"name": stored.good, "alias": "app", "command": ["sleep", "100"]}
    good = gitlab.play(job("echo it ran", image=stored.good, services=[service]))
    assert good.status == "success", good.log.decode()
    for image, services in ((stored.evil, []), (stored.good, [{**service, "name": stored.evil}])):
        result = gitlab.play(job("echo it ran", image=image, services=services))
        assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1), result.log.decode()
        assert f"image {stored.evil} is denied on this machine" in result.log.decode()
        assert "\nit ran" not in result.log.decode()


def test_github_jobs_and_their_actions_are_judged(engine: Engine, stored: Trusted, tmp_path: Path) -> None:
    runner = straight(engine, tmp_path / "actions-runner")
    denied = runner.prepare(stored.evil, check=False)
    assert denied.code != 0
    assert f"image {stored.evil} is denied on this machine" in denied.log
    runner.cleanup()
    action = runner.action(stored.evil, entrypoint="/bin/echo", arguments="ran")
    assert action.code != 0
    assert f"image {stored.evil} is denied on this machine" in action.log
    assert runner.action(stored.good, entrypoint="/bin/echo", arguments="trusted").code == 0


def test_pipelines_of_jenkins_are_judged(engine: Engine, stored: Trusted, tmp_path: Path) -> None:
    agent = docker_shim.install(engine, tmp_path)
    for command in (["run", "--rm", stored.evil, "echo", "ran"], ["pull", stored.evil]):
        denied = agent.docker(*command)
        assert denied.code != 0
        assert "is denied on this machine" in denied.err
        assert "ran" not in denied.out
    assert agent.answer("run", "--rm", stored.good, "echo", "trusted") == "trusted\n"

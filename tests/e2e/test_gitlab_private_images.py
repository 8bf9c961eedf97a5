"""GitLab projects and one store: a private image that one of them pulled opens to the others by credentials of their own only."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults, images
from tests.support.defences import attack, without
from tests.support.gitlab_jobs import GitLab, job
from tests.support.gitlab_replay import JobResult
from tests.support.images import build_image, busybox_layer, file
from tests.support.private_registry import PrivateRegistry
from tests.support.registries import TokenServer, docker_registry

APP = build_image([busybox_layer(), [file("hello", b"hello from the registry\n")]])
A, B = 7, 8
ANY = {"allowed_pull_policies": ["always", "if-not-present", "never"]}
HEAD = [("HEAD", "manifests")]


@pytest.fixture
def registry() -> Iterator[PrivateRegistry]:
    with PrivateRegistry(APP).running() as running:
        yield running


def auth(host: str, password: str = "s3cret") -> dict[str, str]:
    pair = base64.b64encode(f"me:{password}".encode()).decode()
    return {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {host: {"auth": pair}}})}


def play(gitlab: GitLab, name: str, project: int, policy: str = "if-not-present", variables: dict[str, str] | None = None) -> JobResult:
    asked = {"name": name, "pull_policy": [policy]}
    return gitlab.play(job("cat /hello", image=asked, project=project, variables=variables or {}))


def let_in(result: JobResult) -> None:
    assert result.status == "success", result.log.decode()
    assert "\nhello from the registry\n" in result.log.decode()


def kept_out(result: JobResult, says: str) -> None:
    log = result.log.decode()
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1), log
    assert says in log
    assert "hello" not in log
    assert faults.is_explained(log), log


@attack(
    22,
    without("runner/adapters/gitlab/prepare.py", "tenant=policy.tenant(asked.image, around.settings, build_user=build_user)", 'tenant=""'),
)
def test_private_image_of_one_project_is_closed_to_another_until_it_has_credentials(gitlab: GitLab, registry: PrivateRegistry) -> None:
    gitlab.configure(images=ANY)
    let_in(play(gitlab, registry.name, A, variables=auth(registry.host)))
    registry.passwords.add("theirs")
    for variables in ({}, auth(registry.host, "guessed")):
        kept_out(play(gitlab, registry.name, B, "if-not-present", variables), "credentials")
        kept_out(
            play(gitlab, registry.name, B, "never", variables), f"image {registry.name} is stored here, but not for this job: registry "
        )
    registry.asked()
    let_in(play(gitlab, registry.name, B, "never", auth(registry.host, "theirs")))
    assert registry.asked() == HEAD
    let_in(play(gitlab, registry.name, B, "if-not-present", auth(registry.host, "theirs")))
    assert registry.seen == []
    kept_out(play(gitlab, registry.name, A), "credentials")
    let_in(play(gitlab, registry.name, A, variables=auth(registry.host)))


def test_each_job_is_asked_about_where_nothing_is_remembered(gitlab: GitLab, registry: PrivateRegistry) -> None:
    gitlab.configure(images={**ANY, "access_ttl": 0})
    let_in(play(gitlab, registry.name, A, variables=auth(registry.host)))
    registry.asked()
    for _ in range(2):
        let_in(play(gitlab, registry.name, A, variables=auth(registry.host)))
        assert registry.asked() == HEAD


def test_public_image_is_for_every_project_without_a_question(gitlab: GitLab, registry: PrivateRegistry) -> None:
    gitlab.configure(images={**ANY, "public": [f"{registry.host}/team/*"]})
    let_in(play(gitlab, registry.name, A, variables=auth(registry.host)))
    registry.seen.clear()
    for policy in ("if-not-present", "never"):
        let_in(play(gitlab, registry.name, B, policy))
    assert registry.seen == []


def test_what_the_administrator_chose_is_for_every_project(gitlab: GitLab, registry: PrivateRegistry) -> None:
    assert gitlab.engine.run("pull", registry.name, env=auth(registry.host)).code == 0
    registry.seen.clear()
    gitlab.configure(images={**ANY, "default": registry.name, "pull_policy": "never"}, gitlab={"helper_image": registry.name})
    let_in(gitlab.play(job("cat /hello", image="", project=B)))
    let_in(play(gitlab, registry.name, B, "never"))
    assert registry.seen == []


def test_services_are_asked_about_like_images_but_for_configured_ones(gitlab: GitLab, registry: PrivateRegistry) -> None:
    gitlab.configure(images={**ANY, "pull_policy": "if-not-present"})
    let_in(play(gitlab, registry.name, A, variables=auth(registry.host)))
    service: dict[str, Any] = {"name": registry.name, "alias": "app", "command": ["sleep", "100"]}
    kept_out(gitlab.play(job("true", services=[service], project=B)), "wants credentials")
    configured = {"services": [service], "wait_for_services_timeout": -1}
    gitlab.configure(images={**ANY, "pull_policy": "if-not-present"}, gitlab=configured)
    result = gitlab.play(job("true", project=B))
    assert result.status == "success", result.log.decode()


def test_registry_that_is_down_is_not_the_jobs_fault_and_opens_nothing(gitlab: GitLab) -> None:
    gitlab.configure(images=ANY)
    registry = PrivateRegistry(APP)
    with registry.running():
        let_in(play(gitlab, registry.name, A, variables=auth(registry.host)))
    let_in(play(gitlab, registry.name, A, "never", variables=auth(registry.host)))
    attempt = gitlab.replay(
        job(image={"name": registry.name, "pull_policy": ["never"]}, project=B, variables=auth(registry.host))
    ).attempt()
    ended = attempt.prepare()
    attempt.cleanup()
    log = bytes(attempt.build.log).decode()
    assert ended.returncode == faults.CODES["gitlab"][faults.SYSTEM], log
    assert f"cannot tell whether this job may use image {registry.name}: cannot reach registry" in log
    assert faults.is_explained(log), log


def test_token_registry_opens_to_the_job_tokens_of_each_project(gitlab: GitLab, tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path / "tokens", {"gitlab-ci-token": "of project 7"})
    gitlab.configure(images=ANY)
    with tokens.running(), docker_registry(tmp_path / "registry", token_server=tokens) as host:
        images.push(APP, f"{host}/team/app:v1", token=tokens.mint("team/app", ("pull", "push")))

        def sent(project: int, password: str) -> JobResult:
            credentials = [{"type": "registry", "url": host, "username": "gitlab-ci-token", "password": password}]
            image = {"name": f"{host}/team/app:v1", "pull_policy": ["if-not-present"]}
            return gitlab.play(job("cat /hello", image=image, project=project, credentials=credentials))

        let_in(sent(A, "of project 7"))
        kept_out(sent(B, "of project 8"), f"registry {host} refuses the credentials from job payload (GitLab Registry) for team/app")
        tokens.users["gitlab-ci-token"] = "of project 8"
        let_in(sent(B, "of project 8"))
        # the next job of project 7 has another token
        kept_out(sent(A, "of another job"), "refuses the credentials")

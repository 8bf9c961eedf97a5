"""From what GitLab sent to what the engine is asked for, as values."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import config, errors, paths
from runner.adapters.gitlab import payload, prepare
from runner.image import auth
from runner.job.surroundings import Surroundings
from runner.kernel import accounts, process
from runner.model import ContainerSpec, JobSpec, Limits

VARIABLES = {
    "CI_PROJECT_DIR": "/builds/g/p",
    "RUNNER_TEMP_PROJECT_DIR": "/builds/g/p.tmp",
    "CI_RUNNER_SHORT_TOKEN": "aB3_-xyz9",
    "CI_CONCURRENT_PROJECT_ID": "2",
    "CI_JOB_SERVICES": "[...]",
    "PUBLIC": "1",
    "PASSWORD": "secret",
    "VAULT": "content",
}
JOB: dict[str, Any] = {
    "id": 4711,
    "job_info": {"project_id": 7, "root_namespace_id": 3},
    "git_info": {"repo_url": "https://gitlab-ci-token:x@GitLab.example:8443/g/p.git"},
    "variables": [{"key": "PUBLIC", "value": "1", "public": True}, {"key": "PASSWORD", "value": "secret", "public": False}],
    "secrets": {"VAULT": {}},
    "image": {"name": "ruby:3", "entrypoint": [""], "executor_opts": {"docker": {"user": "app", "platform": "arm64"}}},
}


def job(**changes: Any) -> payload.Job:
    return payload.parse(json.dumps({**JOB, **changes}).encode())


def plan(settings: config.Settings | None = None, variables: dict[str, str] | None = None, **changes: Any) -> JobSpec:
    around = Surroundings(paths.Store("/state"), settings or config.Settings(), accounts.current())
    return prepare.plan(job(**changes), around, {**VARIABLES, **(variables or {})}, key="gitlab-1-ab", keychain=auth.Keychain())


def with_gitlab(**changes: Any) -> config.Settings:
    return config.Settings(gitlab=config.GitLab()._replace(**changes))


def container(spec: JobSpec, name: str) -> ContainerSpec:
    return next(found for found in (*spec.containers, *spec.services) if found.name == name)


def test_a_job_has_a_build_container_a_helper_and_its_services() -> None:
    spec = plan(services=[{"name": "redis:7"}, {"name": "postgres:16", "alias": "db"}])
    assert [found.name for found in spec.containers] == ["build", "helper"]
    assert [(found.name, found.image, found.aliases) for found in spec.services] == [
        ("service-0", "redis:7", ("redis",)),
        ("service-1", "postgres:16", ("postgres", "db")),
    ]


def test_the_build_container_is_what_the_job_says() -> None:
    build = container(plan(), "build")
    assert (build.image, build.platform, build.user, build.entrypoint, build.command) == ("ruby:3", "arm64", "app", ("",), ())
    assert build.init is False
    assert container(plan(variables={"FF_USE_INIT_WITH_DOCKER_EXECUTOR": "true"}), "build").init is True


def test_the_helper_is_root_in_the_toolbox_whatever_the_job_says() -> None:
    helper = container(plan(), "helper")
    assert (helper.image, helper.user, helper.entrypoint, helper.command) == ("toolbox", "0:0", (), ())


def test_a_configured_user_is_the_build_containers_only() -> None:
    spec = plan(with_gitlab(user="ci"), services=[{"name": "redis:7"}])
    assert [container(spec, name).user for name in ("build", "helper", "service-0")] == ["ci", "0:0", ""]


def test_an_entrypoint_can_be_kept_from_jobs() -> None:
    spec = plan(
        with_gitlab(disable_entrypoint_overwrite=True), services=[{"name": "redis:7", "entrypoint": ["sh"], "command": ["-c", "x"]}]
    )
    assert container(spec, "build").entrypoint is None
    assert container(spec, "service-0").entrypoint is None
    assert container(spec, "service-0").command == ("-c", "x")


def test_secrets_reach_the_jobs_containers_and_no_service() -> None:
    spec = plan(services=[{"name": "redis:7", "variables": [{"key": "MINE", "value": "$PASSWORD"}]}])
    for name in ("build", "helper"):
        assert dict(container(spec, name).env)["PASSWORD"] == "secret"
        assert dict(container(spec, name).env)["VAULT"] == "/builds/g/p.tmp/VAULT"
    service = dict(container(spec, "service-0").env)
    assert service.keys() & {"PASSWORD", "VAULT"} == set()
    assert (service["PUBLIC"], service["MINE"]) == ("1", "secret")
    assert all("CI_JOB_SERVICES" not in dict(found.env) for found in (*spec.containers, *spec.services))


def test_all_containers_share_the_volumes() -> None:
    spec = plan(services=[{"name": "redis:7"}])
    shared = container(spec, "build").volumes
    assert {volume.target for volume in shared} == {"/builds", "/cache"}
    assert container(spec, "service-0").volumes == shared
    assert container(spec, "helper").volumes[:2] == shared


def test_limits_of_services_are_their_own() -> None:
    settings = config.Settings(limits=Limits(memory=1), service_limits=Limits(memory=2))
    spec = plan(settings, services=[{"name": "redis:7"}])
    assert [container(spec, name).limits.memory for name in ("build", "helper", "service-0")] == [1, 1, 2]


def test_the_host_name_says_which_job_of_which_project_it_is() -> None:
    spec = plan()
    assert container(spec, "build").hostname == container(spec, "helper").hostname == "runner-ab3--xyz9-project-7-concurrent-2"


@pytest.mark.parametrize("number", ["", "x", "-1", "1\n", "../..", "٣", "1" * 30])
def test_a_number_of_the_job_that_is_none_is_nought(number: str) -> None:
    assert container(plan(variables={"CI_CONCURRENT_PROJECT_ID": number}), "build").hostname.endswith("-project-7-concurrent-0")


def test_a_configured_host_name_is_used_as_it_is() -> None:
    assert container(plan(with_gitlab(hostname="ci.example.com")), "build").hostname == "ci.example.com"


@given(st.text(max_size=80), st.text(max_size=80))
def test_every_host_name_is_one(configured: str, token: str) -> None:
    spec = plan(with_gitlab(hostname=configured), {"CI_RUNNER_SHORT_TOKEN": token})
    name = container(spec, "build").hostname
    assert 0 < len(name) <= 63
    assert name.strip("-.") == name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")


def test_a_service_of_a_long_name_has_a_host_name_that_the_kernel_takes() -> None:
    image = "registry.example/" + "group/" * 20 + "postgres:16"
    service = container(plan(services=[{"name": image}]), "service-0")
    assert len(service.aliases[0]) > 64
    assert service.aliases[0].startswith(service.hostname)
    assert 0 < len(service.hostname) <= 63


def test_the_trust_domain_is_told_by_what_gitlab_sent() -> None:
    forged = {"CI_PROJECT_ID": "8", "CI_PROJECT_PATH": "other/project", "CI_SERVER_HOST": "evil.example"}
    assert plan(variables=forged).build_user == plan().build_user
    assert plan(job_info={"project_id": 8}).build_user != plan().build_user
    assert plan(git_info={"repo_url": "https://other.example/g/p.git"}).build_user != plan().build_user


@pytest.mark.parametrize(("kind", "end"), [("project", "-project-7"), ("namespace", "-namespace-3"), ("runner", "")])
def test_build_users_are_shared_as_configured(kind: str, end: str) -> None:
    instance = prepare.instance(job())
    assert plan(with_gitlab(trust_domain=kind)).build_user == f"gitlab-{instance}{end}"
    assert paths.component(plan(with_gitlab(trust_domain=kind)).build_user)


def test_one_gitlab_is_one_whatever_the_credentials_in_the_address() -> None:
    addresses = ["https://u:p@gitlab.example/g/p.git", "https://GITLAB.example/other.git", "http://x@gitlab.example/g/p.git"]
    assert len({prepare.instance(job(git_info={"repo_url": address})) for address in addresses}) == 1


@given(st.text(max_size=40))
def test_whatever_the_address_is_the_build_user_has_a_safe_name(address: str) -> None:
    assert paths.component(prepare.trust_domain(job(git_info={"repo_url": address}), "project"))


@pytest.fixture
def binary(tmp_path: Path) -> str:
    (tmp_path / "gitlab-runner").write_text("#!/bin/sh\n")
    (tmp_path / "gitlab-runner").chmod(0o755)
    return str((tmp_path / "gitlab-runner").resolve())


def test_a_gitlab_runner_outside_of_usr_is_shown_to_the_helper_only(binary: str) -> None:
    spec = plan(with_gitlab(runner_binary=binary))
    (shown,) = container(spec, "helper").volumes[2:]
    assert (shown.source, shown.read_only) == (binary, True)
    path = dict(container(spec, "helper").env)["PATH"]
    assert path.split(":") == [*process.TRUSTED_PATH.split(":"), shown.target.rpartition("/")[0]]
    assert "PATH" not in dict(container(spec, "build").env)


def test_a_configured_gitlab_runner_that_is_not_there_is_not_the_jobs_fault(tmp_path: Path) -> None:
    with pytest.raises(errors.InfraError, match="is not there"):
        plan(with_gitlab(runner_binary=str(tmp_path / "gone")))


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (config.Settings(images=config.Images(allowed=("python:*",))), {}),
        (with_gitlab(allowed_services=("redis:*",)), {"services": [{"name": "evil:1"}]}),
        (with_gitlab(services_limit=1), {"services": [{"name": "a"}, {"name": "b"}]}),
        (with_gitlab(allowed_users=("root",)), {}),
        (config.Settings(), {"image": {"name": "x", "pull_policy": ["never"]}}),
        (config.Settings(), {"services": [{"name": "x", "pull_policy": ["never"]}]}),
        (with_gitlab(volumes=("/proc",)), {}),
    ],
)
def test_what_is_not_allowed_ends_the_job_without_another_try(settings: config.Settings, changes: dict[str, Any]) -> None:
    with pytest.raises(errors.UserError) as caught:
        plan(settings, **changes)
    assert caught.value.exit_code == 1

"""What a GitLab job may use is judged on what GitLab sent; no job variable changes it."""

from typing import Any

import pytest

from tests.support.gitlab_jobs import GitLab, job, output, text_of

_ONLY_TOOLBOX = {"default": "registry.invalid/default:1", "allowed": ["toolbox"]}


def test_image_is_judged_by_its_own_name_and_not_by_a_variable(gitlab: GitLab) -> None:
    gitlab.configure(images=_ONLY_TOOLBOX)
    result = gitlab.play(job(image="evil/image", variables={"CI_JOB_IMAGE": "toolbox"}))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert "image 'evil/image' is not allowed on this runner" in result.log.decode()
    assert "- toolbox" in result.log.decode()


def test_allowed_image_stays_allowed_whatever_a_variable_says(gitlab: GitLab) -> None:
    gitlab.configure(images=_ONLY_TOOLBOX)
    result = gitlab.play(job(image="toolbox", variables={"CI_JOB_IMAGE": "evil/image"}))
    assert result.status == "success"


def test_image_named_by_a_variable_is_judged_expanded(gitlab: GitLab) -> None:
    gitlab.configure(images=_ONLY_TOOLBOX)
    assert gitlab.play(job(image="$WANTED", variables={"WANTED": "toolbox"})).status == "success"
    assert gitlab.play(job(image="$WANTED", variables={"WANTED": "evil/image"})).failure_reason == "script_failure"


def test_service_is_judged_by_its_own_name_and_not_by_a_variable(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"allowed_services": ["toolbox"]})
    result = gitlab.play(job(services=["evil/service"], variables={"CI_JOB_SERVICES": '[{"name":"toolbox"}]'}))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert "service 'evil/service' is not allowed on this runner" in result.log.decode()


def test_too_many_services_are_refused(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"services_limit": 1})
    services = [{"name": "toolbox", "alias": name, "command": ["sleep", "60"]} for name in ("a", "b")]
    result = gitlab.play(job(services=services))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)


@pytest.mark.parametrize(
    ("images", "asked", "accepted"),
    [
        ({}, [], True),
        ({}, ["always"], True),
        ({}, ["never"], False),
        ({"pull_policy": ["if-not-present"]}, ["always"], False),
        ({"pull_policy": ["always"], "allowed_pull_policies": ["always", "never"]}, ["never"], True),
        ({"pull_policy": ["always"], "allowed_pull_policies": ["never"]}, [], False),
    ],
)
def test_pull_policy_of_the_job_is_within_the_allowed_ones(
    gitlab: GitLab, images: dict[str, Any], asked: list[str], accepted: bool
) -> None:
    gitlab.configure(images=images)
    result = gitlab.play(job(image={"name": "toolbox", "pull_policy": asked}))
    assert (result.status == "success", result.prepare_attempts) == (accepted, 1)
    assert ("is not allowed on this runner" in result.log.decode()) is not accepted


def test_pull_policy_of_a_service_is_judged_too(gitlab: GitLab) -> None:
    service = {"name": "toolbox", "pull_policy": ["never"], "command": ["sleep", "60"]}
    result = gitlab.play(job(services=[service]))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)


def test_policies_that_are_in_effect_are_told(gitlab: GitLab) -> None:
    gitlab.configure(images={"pull_policy": ["if-not-present", "always"]})
    with gitlab.prepared() as attempt:
        assert "Using effective pull policy of [if-not-present always] for container toolbox" in text_of(attempt)


# users


def _as(user: str) -> dict[str, Any]:
    return {"name": "toolbox", "executor_opts": {"docker": {"user": user}}}


@pytest.mark.parametrize(("asked", "shown"), [("1000", "1000:1000"), ("www-data", "33:33"), ("1234:2000", "1234:2000"), ("", "0:0")])
def test_job_may_choose_its_user(gitlab: GitLab, asked: str, shown: str) -> None:
    with gitlab.prepared(job(image=_as(asked))) as attempt:
        assert output(attempt, 'echo "$(id -u):$(id -g)"').strip() == shown
        assert output(attempt, 'echo "$(id -u):$(id -g)"', stage="get_sources").strip() == "0:0"


@pytest.mark.parametrize(
    ("settings", "asked", "accepted"),
    [
        ({"allowed_users": ["1000"]}, "1000", True),
        ({"allowed_users": ["1000"]}, "0", False),
        ({"allowed_users": ["1000"]}, "root", False),
    ],
)
def test_user_of_the_job_is_one_of_the_allowed_ones(gitlab: GitLab, settings: dict[str, Any], asked: str, accepted: bool) -> None:
    gitlab.configure(gitlab=settings)
    result = gitlab.play(job("id", image=_as(asked)))
    assert (result.status == "success", result.prepare_attempts) == (accepted, 1)


@pytest.mark.parametrize("asked", ["", "0"])
def test_configured_user_wins(gitlab: GitLab, asked: str) -> None:
    gitlab.configure(gitlab={"user": "1000", "allowed_users": ["0", "1000"]})
    with gitlab.prepared(job(image=_as(asked))) as attempt:
        assert output(attempt, "id -u").strip() == "1000"


@pytest.mark.parametrize("user", ["65536", "4294967295", "no-such-user", "-1"])
def test_user_that_cannot_be_is_the_jobs_fault(gitlab: GitLab, user: str) -> None:
    result = gitlab.play(job(image=_as(user)))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert repr(user) in result.log.decode()


@pytest.mark.parametrize("plain_umask", ["false", "true"])
def test_user_other_than_root_can_write_to_the_project(gitlab: GitLab, plain_umask: str) -> None:
    payload = job(
        ["touch made-by-user checked-out/inside", "stat -c %u made-by-user"],
        image=_as("1000"),
        hooks=[{"name": "post_get_sources_script", "script": ["mkdir -p $CI_PROJECT_DIR/checked-out"]}],
        variables={"FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR": plain_umask},
    )
    result = gitlab.play(payload)
    assert result.status == "success", result.log.decode()
    assert "\n1000\n" in result.log.decode()

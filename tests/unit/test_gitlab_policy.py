"""What a job may use, and which of two answers wins."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import config, errors
from runner.adapters.gitlab import payload, policy
from runner.adapters.gitlab.payload import Image

NOTHING = payload.parse(b"{}")
DEFAULTS = config.Settings()
ORDERS = st.lists(st.sampled_from(["always", "if-not-present", "never"]), unique=True)


def with_images(**changes: Any) -> config.Settings:
    return DEFAULTS._replace(images=config.Images()._replace(**changes))


def with_gitlab(**changes: Any) -> config.Settings:
    return DEFAULTS._replace(gitlab=config.GitLab()._replace(**changes))


def job(image: str = "", services: tuple[str, ...] = (), user: str = "") -> payload.Job:
    return NOTHING._replace(
        image=Image(image, user=user) if image else None,
        services=tuple(Image(name) for name in services),
    )


def test_a_job_without_an_image_gets_the_default() -> None:
    assert policy.image(job(), DEFAULTS) == Image("toolbox")
    assert policy.image(job(), with_images(default="ruby:3")) == Image("ruby:3")


def test_an_empty_list_allows_every_image() -> None:
    assert policy.image(job("anything/at:all"), DEFAULTS).name == "anything/at:all"


@pytest.mark.parametrize("name", ["ruby:3.3", "registry.example:5000/team/app:1", "registry.example:5000/team/sub/app:1"])
def test_an_image_on_the_list_is_allowed(name: str) -> None:
    settings = with_images(allowed=("ruby:*", "registry.example:5000/team/**"))
    assert policy.image(job(name), settings).name == name


@pytest.mark.parametrize("name", ["ruby", "my/ruby:3", "registry.example:5000/team-of-others/app", "docker.io/library/ruby:3", "ruby:3/x"])
def test_every_other_image_is_refused_with_the_list(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = with_images(allowed=("ruby:*", "registry.example:5000/team/**"))
    with pytest.raises(errors.UserError, match="is not allowed") as caught:
        policy.image(job(name), settings)
    assert caught.value.exit_code == 1
    assert "ruby:*, registry.example:5000/team/**" in caught.value.hint
    assert "- ruby:*\n- registry.example:5000/team/**\n" in capsys.readouterr().err


@pytest.mark.parametrize("allowed", [(), ("**",), ("docker-archive:/srv/**",), ("oci:/srv/other/**",), ("oci:*",)])
@pytest.mark.parametrize("name", ["oci:/srv/images/app", "oci:/srv/other/../images/app:v1"])
def test_a_file_of_the_machine_needs_a_pattern_of_its_own(name: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(errors.UserError, match="is a file of the machine") as caught:
        policy.image(job(image=name), with_images(allowed=allowed))
    assert "oci:/directory/**" in caught.value.hint
    with pytest.raises(errors.UserError, match=r"service .* is a file of the machine"):
        policy.services(job(services=(name,)), with_gitlab(allowed_services=allowed))


@pytest.mark.parametrize("name", ["oci:/srv/images/app", "oci:/srv/images/app:v1", "oci:/srv/other/../images/app"])
def test_a_file_of_the_machine_that_a_pattern_names_is_allowed(name: str) -> None:
    settings = with_images(allowed=("ruby:*", "oci:/srv/images/**"))
    assert policy.image(job(image=name), settings).name == name


def test_the_default_image_may_be_a_file_of_the_machine() -> None:
    assert policy.image(job(), with_images(default="oci:/srv/images/app")).name == "oci:/srv/images/app"


def test_the_default_image_is_always_allowed_whether_asked_for_or_not() -> None:
    settings = with_images(default="alpine:3", allowed=("ruby:*",))
    assert policy.image(job(), settings).name == "alpine:3"
    assert policy.image(job("alpine:3"), settings).name == "alpine:3"
    with pytest.raises(errors.UserError):
        policy.image(job("alpine:4"), settings)


def test_a_variable_of_the_job_cannot_choose_the_image() -> None:
    asked = job("evil:1")._replace(variables=(payload.Variable("CI_JOB_IMAGE", "ruby:3", public=True, file=False, raw=False),))
    with pytest.raises(errors.UserError, match="evil:1"):
        policy.image(asked, with_images(allowed=("ruby:*",)))


def test_configured_services_come_first_and_say_everything_that_a_job_can() -> None:
    configured = config.ServiceSettings("redis:7", alias="kv, cache", command=("redis-server",), environment=(("A", "$B"),))
    found = policy.services(job(services=("postgres:16",)), with_gitlab(services=(configured,)))
    assert [service.name for service in found] == ["redis:7", "postgres:16"]
    assert found[0] == Image(
        "redis:7",
        aliases=("kv", "cache"),
        command=("redis-server",),
        variables=(payload.Variable("A", "$B", public=True, file=False, raw=False),),
    )


def test_services_of_the_job_have_a_list_of_their_own() -> None:
    settings = with_gitlab(allowed_services=("postgres:*",))
    assert policy.services(job(services=("postgres:16",)), settings)
    with pytest.raises(errors.UserError, match="service 'redis:7' is not allowed"):
        policy.services(job(services=("postgres:16", "redis:7")), settings)


def test_a_configured_service_is_allowed_to_jobs_as_well() -> None:
    settings = with_gitlab(allowed_services=("postgres:*",), services=(config.ServiceSettings("redis:7"),))
    assert len(policy.services(job(services=("redis:7",)), settings)) == 2


def test_a_service_without_a_name_is_refused() -> None:
    with pytest.raises(errors.UserError, match="bad image name ''"):
        policy.services(job(services=("",)), with_gitlab(allowed_services=("postgres:*",)))


def test_the_limit_counts_all_services_together() -> None:
    settings = with_gitlab(services_limit=2, services=(config.ServiceSettings("redis:7"),))
    assert len(policy.services(job(services=("a",)), settings)) == 2
    with pytest.raises(errors.UserError, match="3 services, the limit is 2"):
        policy.services(job(services=("a", "b")), settings)


def test_no_limit_is_no_limit() -> None:
    assert len(policy.services(job(services=("a",) * 40), DEFAULTS)) == 40


@pytest.mark.parametrize(
    ("asked", "configured", "allowed", "expected"),
    [
        ((), ("always",), (), ("always",)),
        ((), (), (), ("always",)),
        ((), ("if-not-present", "always"), (), ("if-not-present", "always")),
        (("always",), ("always",), (), ("always",)),
        (("never", "always"), ("always",), (), ("always",)),
        (("always", "never"), ("never", "always"), (), ("always", "never")),
        (("never",), ("always",), ("never", "always"), ("never",)),
        ((), ("always", "never"), ("never",), ("never",)),
        (("if-not-present", "always", "never"), ("always",), ("never", "always"), ("always", "never")),
    ],
)
def test_the_jobs_policies_are_tried_in_its_order_as_far_as_they_are_allowed(
    asked: tuple[str, ...], configured: tuple[str, ...], allowed: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    settings = with_images(pull_policy=configured, allowed_pull_policies=allowed)
    assert policy.pull_policies(asked, settings, name="x") == expected


@pytest.mark.parametrize(
    ("asked", "configured", "allowed"),
    [(("never",), ("always",), ()), ((), ("always",), ("never",)), (("sometimes",), ("always",), ())],
)
def test_no_policy_left_is_the_jobs_fault(asked: tuple[str, ...], configured: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    settings = with_images(pull_policy=configured, allowed_pull_policies=allowed)
    with pytest.raises(errors.UserError, match="pull policy") as caught:
        policy.pull_policies(asked, settings, name="ruby:3")
    assert "'ruby:3'" in caught.value.message
    assert caught.value.exit_code == 1


def test_the_log_says_which_policies_count(capsys: pytest.CaptureFixture[str]) -> None:
    policy.pull_policies((), with_images(pull_policy=("always", "never")), name="ruby:3")
    assert capsys.readouterr().err == "Using effective pull policy of [always never] for container ruby:3\n"


@given(ORDERS, ORDERS.filter(bool), ORDERS)
def test_a_policy_counts_if_it_was_wanted_and_is_allowed(asked: list[str], configured: list[str], allowed: list[str]) -> None:
    wanted, permitted = asked or configured, allowed or configured
    settings = with_images(pull_policy=tuple(configured), allowed_pull_policies=tuple(allowed))
    try:
        found = policy.pull_policies(asked, settings, name="x")
    except errors.UserError:
        assert not set(wanted) & set(permitted)
        return
    assert set(found) == set(wanted) & set(permitted)
    assert [wanted.index(one) for one in found] == sorted(wanted.index(one) for one in found)


@pytest.mark.parametrize(
    ("asked", "configured", "allowed", "expected"),
    [
        ("", "", (), ""),
        ("app", "", (), "app"),
        ("", "ci", (), "ci"),
        ("app", "ci", (), "ci"),
        ("ci", "ci", (), "ci"),
        ("app", "", ("app", "web"), "app"),
        ("", "", ("app",), ""),
        ("app", "ci", ("app", "ci"), "ci"),
    ],
)
def test_the_configured_user_beats_the_jobs(asked: str, configured: str, allowed: tuple[str, ...], expected: str) -> None:
    assert policy.user(Image("x", user=asked), with_gitlab(user=configured, allowed_users=allowed)) == expected


@pytest.mark.parametrize(("asked", "configured"), [("root", ""), ("0", ""), ("app:root", ""), ("", "ci")])
def test_a_user_that_is_not_on_the_list_is_refused(asked: str, configured: str) -> None:
    with pytest.raises(errors.UserError, match="is not allowed") as caught:
        policy.user(Image("x", user=asked), with_gitlab(user=configured, allowed_users=("app", "web")))
    assert "app, web" in caught.value.hint


def test_a_wish_that_is_not_granted_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    policy.user(Image("x", user="app"), with_gitlab(user="ci"))
    assert "'app' of the job is not used" in capsys.readouterr().err
    policy.user(Image("x", user="ci"), with_gitlab(user="ci"))
    policy.user(Image("x"), with_gitlab(user="ci"))
    assert capsys.readouterr().err == ""


def test_right_to_a_stored_image_is_the_build_users_unless_the_administrator_chose_it() -> None:
    services = (config.ServiceSettings("redis:7"), config.ServiceSettings("registry.example/proxy"))
    settings = with_images(default="ruby:3")._replace(gitlab=config.GitLab(helper_image="helper:1", services=services))
    for name in ("ruby:3", "helper:1", "redis:7", "registry.example/proxy"):
        assert policy.tenant(name, settings, build_user="project-7") == ""
    for name in ("ruby:4", "docker.io/library/ruby:3", "redis", "registry.example/proxy:1"):
        assert policy.tenant(name, settings, build_user="project-7") == "project-7"

"""Volumes of GitLab jobs: which there are, who shares them, and what a job's variables cannot do to them."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import config, errors, paths
from runner.adapters.gitlab import payload, volumes
from runner.adapters.gitlab.payload import Variable
from runner.model import VolumeSpec
from tests.support.defences import attack, without

JOB = payload.parse(b"{}")._replace(project_id=7, allow_git_fetch=True)
PROJECT = "/builds/g/p"


def with_gitlab(**changes: Any) -> config.Settings:
    return config.Settings(gitlab=config.GitLab()._replace(**changes))


def plan(settings: config.Settings, variables: dict[str, str] | None = None, *, job: payload.Job = JOB) -> tuple[VolumeSpec, ...]:
    return volumes.plan(job, settings, variables or {}, state_dir="/state", project_dir=PROJECT)


def only(entry: str, variables: dict[str, str] | None = None, *, job: payload.Job = JOB) -> VolumeSpec:
    return plan(with_gitlab(volumes=(entry,)), variables, job=job)[0]


def cache(target: str, suffix: str = "") -> str:
    return f"cache-7-{hashlib.md5(target.encode()).hexdigest()}{suffix}"


def variable(key: str, value: str) -> Variable:
    return Variable(key, value, public=True, file=False, raw=False)


def test_without_a_configuration_there_are_a_cache_and_the_builds() -> None:
    assert plan(config.Settings()) == (
        VolumeSpec("/cache", "build-user", cache("/cache")),
        VolumeSpec("/builds", "build-user", cache("/builds")),
    )


@pytest.mark.parametrize(("strategy", "allowed"), [("fetch", True), ("fetch", False), ("", True), ("nonsense", True)])
def test_builds_outlive_a_job_that_fetches(strategy: str, allowed: bool) -> None:
    found = plan(config.Settings(), {"GIT_STRATEGY": strategy}, job=JOB._replace(allow_git_fetch=allowed))
    assert found[-1] == VolumeSpec("/builds", "build-user", cache("/builds"))


@pytest.mark.parametrize(("strategy", "allowed"), [("clone", True), ("none", True), ("empty", True), ("", False), ("nonsense", False)])
def test_builds_end_with_a_job_that_does_not_fetch(strategy: str, allowed: bool) -> None:
    found = plan(config.Settings(), {"GIT_STRATEGY": strategy}, job=JOB._replace(allow_git_fetch=allowed))
    assert found[-1] == VolumeSpec("/builds", "job", "builds")


@pytest.mark.parametrize("directory", ["/builds/", "//builds", "/./builds"])
def test_the_builds_directory_may_be_written_in_any_way(directory: str) -> None:
    assert [v.target for v in plan(with_gitlab(builds_dir=directory, volumes=("/builds",)))] == ["/builds"]
    assert [v.target for v in plan(with_gitlab(builds_dir=directory, volumes=()))] == ["/builds"]


def test_without_caches_every_volume_ends_with_the_job() -> None:
    assert [v.kind for v in plan(with_gitlab(disable_cache=True, volumes=("/cache", "/m2")))] == ["job", "job", "job"]


def test_without_caches_a_named_volume_is_still_one_that_was_asked_for() -> None:
    assert plan(with_gitlab(disable_cache=True, volumes=("m2:/root/.m2",)))[0].kind == "build-user"


@pytest.mark.parametrize(
    ("protected", "ref", "keys", "expected"),
    [
        (True, (), (), True),
        (True, ("false",), (), True),
        (False, ("true",), (), False),
        (None, ("true",), (), True),
        (None, ("false",), (), False),
        (None, ("false", "true"), (), False),
        (None, ("true", "false"), (), True),
        (None, (), (), False),
        (False, (), ("k-protected",), True),
        (False, (), ("k", "other-protected"), True),
        (False, (), ("k-non_protected",), False),
        (False, (), ("protected", "protected-k"), False),
    ],
)
def test_volumes_of_protected_refs_are_others(protected: bool | None, ref: tuple[str, ...], keys: tuple[str, ...], expected: bool) -> None:
    variables = tuple(variable("CI_COMMIT_REF_PROTECTED", value) for value in ref)
    job = JOB._replace(protected=protected, variables=variables, cache_keys=keys)
    assert volumes.is_protected(job) is expected
    suffix = "-protected" if expected else ""
    assert [v.source for v in plan(config.Settings(), job=job)] == [cache("/cache", suffix), cache("/builds", suffix)]


def test_projects_that_share_a_build_user_do_not_share_caches() -> None:
    assert only("/cache").source != only("/cache", job=JOB._replace(project_id=8)).source


@pytest.mark.parametrize(
    ("entry", "target"),
    [
        ("/m2", "/m2"),
        ("/m2/", "/m2"),
        ("$DIR", "/opt/x"),
        ("/a/${NAME}/b", "/a/n/b"),
        ("/a/$NONE", "/a"),
        ("vendor", f"{PROJECT}/vendor"),
        ("$NAME/vendor", f"{PROJECT}/n/vendor"),
    ],
)
def test_a_target_is_expanded_and_a_relative_one_lies_in_the_project(entry: str, target: str) -> None:
    found = only(entry, {"DIR": "/opt/x", "NAME": "n"})
    assert found == VolumeSpec(target, "build-user", cache(target))


def test_a_named_volume_has_its_target_expanded_too() -> None:
    assert only("m2:$DIR:ro", {"DIR": ".m2"}) == VolumeSpec(f"{PROJECT}/.m2", "build-user", "named-m2", read_only=True)


def test_a_directory_of_the_host_is_shown(tmp_path: Path) -> None:
    assert only(f"{tmp_path}:/data:ro") == VolumeSpec("/data", "bind", str(tmp_path.resolve()), read_only=True)


@attack(
    43,
    without("runner/sandbox/mounts.py", "    source, target, mode = split(text)", "    source, target, mode = split(place(text))"),
    more=(42,),
)
@pytest.mark.parametrize("value", ["/tmp:/w", "x:/tmp", "x:/tmp:rw", ":/w", "/w:ro"])
def test_a_variable_of_the_job_cannot_turn_a_cache_into_a_directory_of_the_host(value: str) -> None:
    for entry in ("/cache/$X", "$X", "name:/c/$X"):
        found = only(entry, {"X": value})
        assert found.kind == "build-user"
        assert not found.read_only


def test_a_variable_of_the_job_cannot_choose_what_of_the_host_is_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with pytest.raises(errors.UserError, match="no such file"):
        only(f"{tmp_path}/$X:/w", {"X": "secret"})


@pytest.mark.parametrize(
    ("entry", "value"),
    [("/a/$X", "../../proc"), ("/a/$X", "b\nc"), ("$X", ""), ("$X", "/"), ("$X", "/proc"), ("$X", "../.."), ("/$X", "dev/shm")],
)
def test_a_variable_of_the_job_cannot_put_a_volume_where_none_may_be(entry: str, value: str) -> None:
    with pytest.raises(errors.UserError, match="cannot be used"):
        only(entry, {"X": value})


@pytest.mark.parametrize("entry", ["", "/", "/a:/b:/c:/d", "/proc", "a:/b:exec", "/gone-from-here:/w"])
def test_an_entry_that_cannot_be_used_is_refused(entry: str) -> None:
    with pytest.raises(errors.UserError, match="cannot be used"):
        only(entry)


@pytest.mark.parametrize("entries", [("/a", "/a/"), ("/a", "m2:/a"), ("/builds", "b:/builds"), ("/builds/g/p/x", "x")])
def test_two_volumes_in_one_place_are_refused(entries: tuple[str, ...]) -> None:
    with pytest.raises(errors.UserError, match="defined twice"):
        plan(with_gitlab(volumes=entries))


def test_builds_that_somebody_configured_are_not_made_again(tmp_path: Path) -> None:
    for entry in ("/builds", "b:/builds", f"{tmp_path}:/builds", f"{tmp_path}:/builds/"):
        assert len(plan(with_gitlab(volumes=(entry,)))) == 1
    assert len(plan(with_gitlab(volumes=(f"{tmp_path}:/data",), builds_dir="/data/builds"))) == 1
    assert len(plan(with_gitlab(volumes=("/data",), builds_dir="/data/builds"))) == 2


@pytest.mark.parametrize(
    ("entry", "builds", "expected"),
    [
        ("/host:/builds", "/builds", True),
        ("/host:/builds/:rw", "/builds", True),
        ("/host:/data", "/data/builds", True),
        ("/host:/$B", "/builds", True),
        ("./host:/builds", "/builds", True),
        ("/host:/builds/g", "/builds", False),
        ("/host:/builds2", "/builds", False),
        ("name:/builds", "/builds", False),
        ("/builds", "/builds", False),
        ("/host:builds", "/builds", False),
        ("a:b:c:d", "/builds", False),
    ],
)
def test_builds_on_the_host_are_shared(entry: str, builds: str, expected: bool) -> None:
    assert volumes.builds_are_shared(with_gitlab(volumes=("/cache", entry), builds_dir=builds), {"B": "builds"}) is expected


@given(st.text(max_size=12), st.text(max_size=12))
def test_whatever_a_variable_holds_volumes_are_safe_names_below_safe_targets(value: str, other: str) -> None:
    settings = with_gitlab(volumes=("/cache/$X", "${Y}", "named:/n/$X$Y"))
    try:
        found = plan(settings, {"X": value, "Y": other})
    except errors.UserError:
        return
    assert all(paths.component(volume.source) and volume.kind == "build-user" for volume in found)
    assert all(volume.target.startswith("/") and ".." not in volume.target.split("/") for volume in found)

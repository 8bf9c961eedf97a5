"""JOB_RESPONSE_FILE as gitlab-runner writes it, and as nobody should."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors
from runner.adapters.gitlab import payload
from runner.adapters.gitlab.payload import Image, Variable

JOB: dict[str, Any] = {
    "id": 4711,
    "token": "jobtok",
    "allow_git_fetch": True,
    "job_info": {"name": "t", "stage": "test", "project_id": 7, "project_name": "p", "root_namespace_id": 3},
    "git_info": {"repo_url": "http://gitlab-ci-token:x@gitlab.example/g/p.git", "ref": "main", "protected": False},
    "runner_info": {"timeout": 600},
    "variables": [
        {"key": "A", "value": "1", "public": True, "file": False, "masked": False, "raw": False},
        {"key": "A", "value": "2", "public": False, "file": True, "masked": True, "raw": True},
    ],
    "steps": [{"name": "script", "script": ["id"], "timeout": 600, "when": "on_success", "allow_failure": False}],
    "image": {
        "name": "ruby:3",
        "entrypoint": [""],
        "pull_policy": ["never", "always"],
        "executor_opts": {"docker": {"platform": "arm64", "user": "app"}},
    },
    "services": [
        {
            "name": "redis:7",
            "alias": "cache, kv  store",
            "command": ["redis-server"],
            "variables": [{"key": "B", "value": "$A", "public": True}],
        }
    ],
    "credentials": [
        {"type": "registry", "url": "registry.example:5000", "username": "u", "password": "p"},
        {"type": "vault", "url": "vault.example", "username": "v", "password": "q"},
    ],
    "cache": [{"key": "k-protected", "paths": ["x/"]}],
    "secrets": {"DB": {"vault": {"path": "x"}, "file": None}, "KEY": {"vault": {}, "file": False}, "PEM": {"file": True}},
    "features": {"trace_sections": True},
    "something_new": [1, 2, 3],
}


def parse(**changes: Any) -> payload.Job:
    return payload.parse(json.dumps({**JOB, **changes}).encode())


def test_a_whole_job_is_read() -> None:
    job = parse()
    assert (job.id, job.project_id, job.root_namespace_id) == (4711, 7, 3)
    assert job.repo_url == "http://gitlab-ci-token:x@gitlab.example/g/p.git"
    assert job.image == Image("ruby:3", entrypoint=("",), pull_policy=("never", "always"), user="app", platform="arm64")
    assert job.services == (
        Image("redis:7", aliases=("cache", "kv", "store"), command=("redis-server",), variables=(Variable("B", "$A", True, False, False),)),
    )
    assert job.credentials == (("registry.example:5000", "u", "p"),)
    assert job.cache_keys == ("k-protected",)
    assert job.allow_git_fetch is True


def test_the_last_variable_of_a_name_counts() -> None:
    assert parse().variable("A") == "2"
    assert parse().variable("B") == ""


def test_a_name_is_a_file_or_private_as_its_last_variable_says() -> None:
    first = {"key": "A", "value": "1", "public": False, "file": True}
    last = {"key": "A", "value": "2", "public": True, "file": False}
    assert "A" not in parse(variables=[first, last]).file_names()
    assert "A" not in parse(variables=[first, last]).private_names()
    assert "A" in parse(variables=[last, first]).file_names()
    assert "A" in parse(variables=[last, first]).private_names()


def test_secrets_are_private_and_files_unless_they_say_otherwise() -> None:
    job = parse(variables=[])
    assert job.private_names() == {"DB", "KEY", "PEM"}
    assert job.file_names() == {"DB", "PEM"}


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, None)])
def test_protected_is_yes_no_or_unsaid(value: bool | None, expected: bool | None) -> None:
    assert parse(git_info={"protected": value}).protected is expected


def test_protected_may_be_absent() -> None:
    assert parse(git_info={}).protected is None


@pytest.mark.parametrize("image", [None, {}, {"name": ""}, {"name": "  "}, {"name": None}])
def test_an_image_without_a_name_is_no_image(image: Any) -> None:
    assert parse(image=image).image is None


@pytest.mark.parametrize(("value", "expected"), [(None, None), ([], ()), ([""], ("",)), (["a", ""], ("a", "")), ("sh", ("sh",))])
def test_an_empty_entrypoint_and_none_are_not_the_same(value: Any, expected: tuple[str, ...] | None) -> None:
    image = parse(image={"name": "x", "entrypoint": value, "command": value}).image
    assert image is not None
    assert image.entrypoint == expected
    assert image.command == expected


@pytest.mark.parametrize(("user", "expected"), [("1000", "1000"), (1000, "1000"), (0, "0"), ("app:docker", "app:docker"), (None, "")])
def test_a_user_may_be_a_number(user: Any, expected: str) -> None:
    image = parse(image={"name": "x", "executor_opts": {"docker": {"user": user}}}).image
    assert image is not None
    assert image.user == expected


@pytest.mark.parametrize(
    "key", ["job_info", "git_info", "variables", "image", "services", "credentials", "cache", "secrets", "id", "allow_git_fetch"]
)
def test_null_is_the_same_as_absent(key: str) -> None:
    without = {name: value for name, value in JOB.items() if name != key}
    assert parse(**{key: None}) == payload.parse(json.dumps(without).encode())


def test_an_empty_object_is_a_job_that_says_nothing() -> None:
    job = payload.parse(b"{}")
    assert (job.image, job.services, job.variables, job.credentials) == (None, (), (), ())
    assert job.allow_git_fetch is False


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "4711"},
        {"id": True},
        {"id": 1.5},
        {"allow_git_fetch": 1},
        {"job_info": []},
        {"git_info": {"protected": "true"}},
        {"variables": {}},
        {"variables": ["A=1"]},
        {"variables": [{"key": "A", "public": "yes"}]},
        {"variables": [{"key": ["A"]}]},
        {"image": "ruby"},
        {"image": {"name": "x", "entrypoint": [1]}},
        {"image": {"name": "x", "entrypoint": {"a": 1}}},
        {"image": {"name": "x", "pull_policy": [None]}},
        {"image": {"name": "x", "executor_opts": {"docker": {"user": True}}}},
        {"services": [["redis"]]},
        {"cache": [{"key": False}]},
        {"secrets": ["DB"]},
        {"secrets": {"DB": "x"}},
        {"secrets": {"DB": {"file": "no"}}},
    ],
)
def test_a_field_of_another_type_is_named_and_is_not_the_jobs_fault(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.InfraError, match=rf"job\.{next(iter(changes))}"):
        parse(**changes)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"{}x", b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_object_is_not_the_jobs_fault(raw: bytes) -> None:
    with pytest.raises(errors.InfraError, match="JOB_RESPONSE_FILE"):
        payload.parse(raw)


def test_a_missing_file_says_which_runner_writes_it(tmp_path: Path) -> None:
    with pytest.raises(errors.InfraError, match="cannot be read") as caught:
        payload.read(str(tmp_path / "gone"))
    assert "14.1" in caught.value.hint


def test_a_file_that_the_runner_does_not_name_is_said_in_a_sentence() -> None:
    with pytest.raises(errors.InfraError) as caught:
        payload.read("")
    assert caught.value.message == "JOB_RESPONSE_FILE is not set"
    assert "14.1" in caught.value.hint


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "response.json").write_bytes(json.dumps(JOB).encode() + b"\n")
    assert payload.read(str(tmp_path / "response.json")) == parse()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "key", "user", "docker", "file"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(JOB)), ANYTHING))
def test_whatever_the_json_is_the_error_is_a_sentence(value: dict[str, Any]) -> None:
    try:
        job = payload.parse(json.dumps({**JOB, **value}).encode())
    except errors.InfraError as e:
        assert e.hint
        return
    assert isinstance(job.id, int)
    assert job.image is None or job.image.name


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_the_error_is_a_sentence(raw: bytes) -> None:
    try:
        payload.parse(raw)
    except errors.InfraError as e:
        assert e.hint

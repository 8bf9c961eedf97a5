"""The record of a job: what was saved is what is read, and damage is an error that names the job."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors, paths
from runner.job import state
from runner.job.keeper import Keeper
from runner.job.state import ContainerState, JobState
from runner.kernel import boot, process
from runner.model import BuildUser
from tests.support import stores
from tests.support.locks import Holder

CONTAINER = ContainerState(
    name="build", is_service=False, endpoint="job", ip="10.99.0.2", aliases=("build", "b"), image="ruby:3", image_digest="sha256:0",
    exposed_ports=("80/tcp",), entrypoint=("",), command=(), uid=1000, gid=0, cgroup="/sys/fs/cgroup/x",
)  # fmt: skip
JOB = JobState(
    key="gitlab-1-ab", build_user=BuildUser("gitlab-1", 3, 200_000, 300_000), slot=1, shared_id=None, keeper=Keeper(7, 8, "boot"),
    containers={"build": CONTAINER}, facts={"job": "x/1", "files": ["A"], "n": {"a": None}}, cgroup="", created=1.5,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "state")


def save(store: paths.Store, job: JobState = JOB) -> JobState:
    os.makedirs(store.job(job.key), exist_ok=True)
    state.save(store, job)
    return job


def damage(store: paths.Store, text: str) -> None:
    save(store)
    Path(store.job_state(JOB.key)).write_text(text)


def changed(**fields: Any) -> str:
    """Return the saved form of the job with some fields replaced."""
    value = {"format": state.FORMAT, **json.loads(json.dumps(JOB._asdict())), "containers": [CONTAINER._asdict()]}
    return json.dumps({**value, **fields})


def test_what_was_saved_is_read(store: paths.Store) -> None:
    assert state.load(store, save(store).key) == JOB


def test_the_record_is_for_the_account_only(store: paths.Store) -> None:
    save(store)
    assert Path(store.job_state(JOB.key)).stat().st_mode & 0o777 == 0o600


TEXTS = st.text(max_size=8)
TUPLES = st.lists(TEXTS, max_size=3).map(tuple)
CONTAINERS = st.builds(
    ContainerState, TEXTS, st.booleans(), TEXTS, TEXTS, TUPLES, TEXTS, TEXTS, TUPLES, TUPLES, TUPLES, st.integers(), st.integers(), TEXTS
)


@given(
    st.lists(CONTAINERS, max_size=3), st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS | st.lists(TEXTS)), st.none() | st.integers()
)
def test_any_record_survives(
    tmp_path_factory: pytest.TempPathFactory, containers: list[ContainerState], facts: dict[str, Any], shared_id: int | None
) -> None:
    store = stores.make(tmp_path_factory.mktemp("s") / "state")
    job = save(store, JOB._replace(containers={c.name: c for c in containers}, facts=facts, shared_id=shared_id))
    assert state.load(store, job.key) == job


def test_there_is_no_such_job(store: paths.Store) -> None:
    assert state.load(store, "gone") is None
    os.mkdir(store.job("half-made"))
    assert state.load(store, "half-made") is None


@pytest.mark.parametrize("found", [0, state.FORMAT + 1, "1", None])
def test_another_versions_record_is_left_to_that_version(store: paths.Store, found: Any) -> None:
    damage(store, changed(format=found))
    with pytest.raises(errors.UserError, match=f"has format {found}"):
        state.load(store, JOB.key)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", "null", '"x"', "\x00", "[" * 100_000, '{"format": 1}', changed(containers=None), changed(containers=[[]]),
        changed(containers=[{}]),
        changed(containers=[{**CONTAINER._asdict(), "more": 1}]), changed(containers=[{**CONTAINER._asdict(), "aliases": None}]),
        changed(keeper=[1, 2]), changed(keeper=None), changed(build_user=["x"]),
    ],
)  # fmt: skip
def test_damage_is_an_error_that_names_the_job(store: paths.Store, text: str) -> None:
    damage(store, text)
    with pytest.raises(errors.InfraError, match=f"{JOB.key} is damaged") as caught:
        state.load(store, JOB.key)
    assert "gc" in caught.value.hint


def test_a_record_that_is_no_file_is_damage(store: paths.Store) -> None:
    os.makedirs(store.job_state(JOB.key))
    with pytest.raises(errors.InfraError, match="is damaged"):
        state.load(store, JOB.key)


def test_a_container_is_found_by_name() -> None:
    assert JOB.container("build") == CONTAINER
    with pytest.raises(errors.Bug, match="no container helper"):
        JOB.container("helper")


def test_keys_are_names_of_directories_that_a_job_may_have(store: paths.Store) -> None:
    for name in ("b", "a", ".b.123", "not safe", "x~", "x.lock"):
        os.mkdir(f"{store.jobs}/{name}")
    Path(f"{store.jobs}/a.lock").touch()
    Path(f"{store.jobs}/file").touch()
    os.symlink("a", f"{store.jobs}/link")
    assert state.keys(store) == ["a", "b"]


def test_a_store_without_jobs_has_no_keys(tmp_path: Path) -> None:
    assert state.keys(paths.Store(str(tmp_path / "none"))) == []


def test_every_job_that_can_be_read_is_listed_with_its_life(store: paths.Store) -> None:
    dead = save(store)
    alive = save(store, JOB._replace(key="alive", keeper=Keeper(os.getpid(), process.start_time(os.getpid()), boot.boot_id())))
    os.mkdir(store.job("half-made"))
    os.mkdir(store.job("damaged"))
    Path(store.job_state("damaged")).write_text("[]")
    assert state.every(store) == [(alive, True), (dead, False)]


@pytest.mark.parametrize("change", [{"pid": 0}, {"started": 1}, {"boot_id": "another boot"}])
def test_a_keeper_is_pid_start_and_boot_together(store: paths.Store, change: dict[str, Any]) -> None:
    mine = Keeper(os.getpid(), process.start_time(os.getpid()), boot.boot_id())
    assert state.is_alive(store, save(store, JOB._replace(keeper=mine)))
    assert not state.is_alive(store, save(store, JOB._replace(keeper=mine._replace(**change))))


def test_a_job_that_somebody_makes_or_ends_is_alive(store: paths.Store) -> None:
    job = save(store, JOB._replace(keeper=state.NO_KEEPER))
    with Holder(Path(store.job_lock(job.key))):
        assert state.is_alive(store, job)
    assert not state.is_alive(store, job)


def test_looking_does_not_keep_others_from_looking(store: paths.Store) -> None:
    job = save(store, JOB._replace(keeper=state.NO_KEEPER))
    with Holder(Path(store.job_lock(job.key)), "shared"):
        assert not state.is_alive(store, job)

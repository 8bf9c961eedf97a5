"""Leases that end: only those of build users that own nothing, and never under the hands of a job that is being made."""

import json
import os
from pathlib import Path

import pytest

from runner import errors, paths
from runner.image import layer_store
from runner.job import leases, state
from runner.job.state import JobState
from runner.kernel import locks
from runner.model import BuildUser
from runner.sandbox import build_users
from tests.support import stores, trees
from tests.support.images import build_image, file
from tests.support.layered import emptied, unpacked
from tests.support.locks import Holder


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "state")


def lease(store: paths.Store, name: str) -> BuildUser:
    return build_users.lease(store, trees.account(), name)


def release(store: paths.Store) -> list[str]:
    return leases.release_idle(store, trees.account())


def record_job(store: paths.Store, user: BuildUser) -> None:
    os.mkdir(store.job("job"))
    state.save(store, JobState("job", user, 0, None, state.NO_KEEPER, {}, {}, "", 0.0))


def test_build_users_that_own_nothing_give_back_their_ids_all_at_once(store: paths.Store) -> None:
    for name in ("a", "b", "c"):
        lease(store, name)
    os.makedirs(store.build_user_volume("b", 0, "cache"))
    assert release(store) == ["a", "c"]
    assert json.loads(Path(store.build_users).read_text()) == {"b": 1}
    assert release(store) == []


def test_empty_directories_and_stamps_are_nothing(store: paths.Store) -> None:
    lease(store, "a")
    os.makedirs(f"{store.volumes}/a/3")
    Path(f"{store.volumes}/a/3/.cache.used").touch()
    os.makedirs(f"{store.storage}/a/podman")
    assert release(store) == ["a"]
    assert os.listdir(store.volumes) == os.listdir(store.storage) == []


@pytest.mark.parametrize(
    "left", ["volumes/a/0/cache", "volumes/a/1/.cache.0123.gone", "storage/a/podman/0", "storage/a/docker/.1.0123.gone"]
)
def test_whatever_is_left_of_a_volume_or_storage_keeps_the_lease(store: paths.Store, left: str) -> None:
    lease(store, "a")
    os.makedirs(f"{store.root}/{left}")
    assert release(store) == []


def test_job_keeps_the_lease_until_it_is_cleaned_up(store: paths.Store) -> None:
    record_job(store, lease(store, "a"))
    lease(store, "b")
    assert release(store) == ["b"]


def test_job_that_is_being_made_keeps_its_build_users_lease_and_no_other(store: paths.Store) -> None:
    lease(store, "a")
    lease(store, "b")
    Path(store.job_lock("new")).write_text("a\nolder words\n")
    with Holder(Path(store.job_lock("new"))):
        assert release(store) == ["b"]
    assert release(store) == ["a"]


def test_while_nobody_knows_whose_job_is_being_made_none_ends(store: paths.Store) -> None:
    lease(store, "a")
    with Holder(Path(store.job_lock("new"))):
        assert release(store) == []
    os.mkdir(store.job("begun"))
    assert release(store) == []
    os.rmdir(store.job("begun"))
    assert release(store) == ["a"]


@pytest.mark.parametrize("text", ["{", '{"format": 99}'])
def test_job_with_an_unreadable_record_may_be_anybodys(store: paths.Store, text: str) -> None:
    lease(store, "a")
    os.mkdir(store.job("odd"))
    Path(store.job_state("odd")).write_text(text)
    assert release(store) == []


def test_unpacked_layers_keep_the_lease_and_their_empty_directory_goes_with_it(tmp_path: Path) -> None:
    with emptied(tmp_path / "store") as store:
        user = lease(store, "a")
        (layer,) = unpacked(store, stores.add(store, build_image([[file("f")]])), user.isolated_map())
        unpacked(store, stores.add(store, build_image([])), user.isolated_map())
        assert release(store) == []
        layer_store.collect(store, keep=set(), used=set)
        assert sorted(os.listdir(layer.parent)) == ["empty", "map.json"]
        assert release(store) == ["a"]
        assert os.listdir(store.layers) == []


def test_layers_of_a_slice_with_a_longer_number_are_somebody_elses(store: paths.Store) -> None:
    user = lease(store, "a")
    os.mkdir(f"{store.layers}/s{user.uid_start}0")
    os.mkdir(f"{store.layers}/s{user.uid_start}0/layer")
    assert release(store) == ["a"]


def test_names_in_brackets_are_no_trust_domains(store: paths.Store) -> None:
    lease(store, "(images)")
    assert release(store) == []


# --- a job that had read its lease before it ended


def confirm(store: paths.Store, user: BuildUser) -> None:
    with locks.hold(store.lock):
        build_users.confirm(store, trees.account(), user)


def leased(store: paths.Store) -> dict[str, int]:
    found: dict[str, int] = json.loads(Path(store.build_users).read_text())
    return found


def test_lease_that_stands_is_confirmed(store: paths.Store) -> None:
    user = lease(store, "a")
    confirm(store, user)
    assert leased(store) == {"a": 0}


def test_lease_that_ended_is_taken_again(store: paths.Store) -> None:
    user = lease(store, "a")
    lease(store, "b")
    os.makedirs(store.build_user_volume("b", 0, "cache"))
    assert release(store) == ["a"]
    confirm(store, user)
    assert leased(store) == {"a": 0, "b": 1}


def test_lease_that_somebody_else_has_by_now_is_a_temporary_failure(store: paths.Store) -> None:
    user = lease(store, "a")
    release(store)
    lease(store, "b")
    with pytest.raises(errors.Temporary, match="given to somebody else") as caught:
        confirm(store, user)
    assert caught.value.hint == "try again"
    assert leased(store) == {"b": 0}


def test_lease_that_ended_and_began_again_on_other_ids_is_a_temporary_failure(store: paths.Store) -> None:
    user = lease(store, "a")
    release(store)
    lease(store, "b")
    lease(store, "a")
    with pytest.raises(errors.Temporary):
        confirm(store, user)

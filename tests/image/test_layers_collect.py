"""Collecting layers: what no stored image names goes, and nothing that a job or an unpacking process may still use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import paths
from runner.errors import InfraError
from runner.image import images as records
from runner.image import layer_names, layer_store
from runner.job import collect, state
from runner.kernel import files, locks
from runner.model import Image
from tests.support import images, stores, trees
from tests.support.images import directory, file
from tests.support.layered import emptied, left, unpacked
from tests.support.locks import Holder

BASE = [directory("etc"), file("etc/conf", bytes(50_000))]
TOP = [file("shared/new", b"hi")]
NAME = "docker.io/library/kept:1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[paths.Store]:
    with emptied(tmp_path / "store") as made:
        yield made


def lock_of(store: paths.Store) -> Path:
    return Path(store.layer_map_lock(layer_names.map_name(trees.isolated())))


def recorded(store: paths.Store) -> Image:
    image = stores.add(store, images.build_image([BASE, TOP]), NAME)
    records.add(store, NAME, image)
    return image


def orphaned(store: paths.Store) -> list[Path]:
    """Return layers that no stored image names."""
    return unpacked(store, stores.add(store, images.build_image([[file("orphan", bytes(50_000))], [file("top/orphan")]])))


def collect_all(store: paths.Store) -> int:
    return layer_store.collect(store, keep=set(), used=set)


def record_job(store: paths.Store, found: list[Path], key: str = "job") -> None:
    os.mkdir(store.job(key))
    used = tuple(f"{path.parent.name}/{path.name}" for path in found)
    state.save(store, state.JobState(key, trees.first_user(), 0, None, state.NO_KEEPER, {}, {}, "", 0.0, layers=used))


def plant(directory_of_slice: Path) -> None:
    directory_of_slice.mkdir()
    (directory_of_slice / "f").write_text("x")
    os.chown(directory_of_slice / "f", 8, 8)
    os.chown(directory_of_slice, 1, 1)


def test_layers_of_stored_images_stay_and_all_others_go(store: paths.Store) -> None:
    kept = unpacked(store, recorded(store))
    orphaned(store)
    assert collect.collect(store) > 50_000
    assert left(store) == {path.name for path in kept}
    assert trees.look(kept[0])["shared/new"].text == "hi"


def test_layers_of_every_map_are_collected_and_kept(store: paths.Store) -> None:
    shared = trees.first_user().shared_map(trees.account(), container_id=0)
    kept = unpacked(store, recorded(store)) + unpacked(store, recorded(store), shared)
    gone = orphaned(store) + unpacked(store, stores.add(store, images.build_image([[file("x", uid=0), file("y", uid=1)]])), shared)
    collect.collect(store)
    assert [path.exists() for path in kept + gone] == [True] * len(kept) + [False] * len(gone)


def test_layers_of_a_forgotten_image_go_and_come_back_with_it(store: paths.Store) -> None:
    before = unpacked(store, recorded(store))
    records.remove(store, NAME)
    assert collect.collect(store) > 50_000
    assert (left(store), stores.blobs(store)) == (set(), set())
    assert unpacked(store, recorded(store)) == before


def test_collecting_twice_frees_nothing_more(store: paths.Store) -> None:
    recorded(store)
    orphaned(store)
    collect.collect(store)
    assert collect.collect(store) == 0


def test_collecting_frees_what_the_disk_had_given(store: paths.Store) -> None:
    found = orphaned(store)
    taken = trees.in_keeper(lambda: sum(files.disk_usage(str(path)) for path in found))
    assert collect_all(store) == taken


def test_store_without_layers_has_nothing_to_collect(store: paths.Store) -> None:
    assert collect_all(store) == 0
    os.rmdir(store.layers)
    assert collect_all(store) == 0
    os.mkdir(store.layers)


def test_directory_of_images_without_layers_stays(store: paths.Store) -> None:
    (empty,) = unpacked(store, stores.add(store, images.build_image([])))
    collect_all(store)
    assert empty.is_dir()


def test_what_a_killed_process_left_goes_even_for_a_stored_image(store: paths.Store) -> None:
    kept = unpacked(store, recorded(store))
    rest = kept[0].with_name(f".{kept[0].name}.0123abcd")
    trees.in_keeper(lambda: plant(rest))
    collect.collect(store)
    assert left(store) == {path.name for path in kept}


def test_tree_that_fights_its_removal_goes(store: paths.Store) -> None:
    deep = "/".join(["d" * 200] * 15)
    entries = [directory("locked", mode=0), file("locked/in", mode=0, uid=9), file(f"{deep}/f"), directory("d" * 200, mode=0, uid=9)]
    unpacked(store, stores.add(store, images.build_image([entries])))
    collect_all(store)
    assert left(store) == set()


# --- who must not be disturbed


def test_layers_of_a_job_stay_while_it_lives_and_others_go(store: paths.Store) -> None:
    found = orphaned(store)
    record_job(store, found[:1])
    with Holder(Path(store.job_lock("job"))):
        collect.collect(store)
        assert left(store) == {found[0].name}
    collect.collect(store)
    assert left(store) == set()


def test_nothing_goes_while_there_is_a_job_of_another_version(store: paths.Store) -> None:
    found = orphaned(store)
    os.mkdir(store.job("job"))
    files.write_json(store.job_state("job"), {"format": state.FORMAT + 1, "key": "job"})
    collect.collect(store)
    assert left(store) == {path.name for path in found}


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_map_that_somebody_unpacks_for_is_left_alone_and_the_others_are_not(store: paths.Store, kind: str) -> None:
    found = orphaned(store)
    other = trees.first_user().shared_map(trees.account(), container_id=7)
    (gone,) = unpacked(store, stores.add(store, images.build_image([BASE])), other)
    with Holder(lock_of(store), kind):
        assert collect_all(store) > 50_000
    assert left(store) == {path.name for path in found}
    assert not gone.exists()


def test_use_is_asked_for_where_no_job_can_begin_to_use_a_layer_unseen(store: paths.Store) -> None:
    found = orphaned(store)
    answers: list[bool] = []

    def used() -> None:
        answers.append(locks.try_take(str(lock_of(store)), shared=True) is None)

    layer_store.collect(store, keep=set(), used=used)
    assert answers == [True]
    assert left(store) == {path.name for path in found}


def test_layer_that_a_pull_has_claimed_stays(store: paths.Store) -> None:
    found = orphaned(store)
    seal = layer_names.read_seal(store, found[0].parent.name, found[0].name)
    with Holder(Path(store.layer_lock(found[0].parent.name, seal.diff_name)), "shared"):
        collect_all(store)
    assert left(store) == {found[0].name}


# --- damage


@pytest.mark.parametrize("record", ["", "{", "[]", "[[], []]", "[[[0, 1]], [[0, 1]]]", '[[["a", 1, 1]], [[0, 1, 1]]]', "[[[0,1,1]], 7]"])
def test_map_whose_record_is_damaged_is_named_and_the_others_are_collected(store: paths.Store, record: str) -> None:
    found = orphaned(store)
    other = trees.first_user().shared_map(trees.account(), container_id=7)  # its name comes later
    (gone,) = unpacked(store, stores.add(store, images.build_image([BASE])), other)
    (found[0].parent / "map.json").write_text(record)
    with pytest.raises(InfraError, match=found[0].parent.name) as caught:
        collect_all(store)
    assert caught.value.hint
    assert left(store) == {path.name for path in found}
    assert not gone.exists()


def test_map_whose_record_was_damaged_can_be_collected_once_it_was_used_again(store: paths.Store) -> None:
    found = orphaned(store)
    (found[0].parent / "map.json").write_text("{")
    unpacked(store, stores.add(store, images.build_image([BASE])))
    collect_all(store)
    assert left(store) == set()


def test_record_of_another_map_is_damage(store: paths.Store) -> None:
    found = orphaned(store)
    files.write_json(str(found[0].parent / "map.json"), trees.first_user().shared_map(trees.account(), container_id=7))
    with pytest.raises(InfraError, match="damaged"):
        collect_all(store)
    assert left(store) == {path.name for path in found}

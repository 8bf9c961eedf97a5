"""The layers of an image as directories: unpacked once for an id map, owned by its ids, and named so that no two are mixed up."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import paths
from runner.image import layer_names, unpacking
from runner.model import BuildUser, IdMap
from tests.support import images, stores, trees
from tests.support.images import directory, file
from tests.support.layered import emptied, left, short, unpacked
from tests.support.locks import Holder

BASE = [directory("etc"), file("etc/conf", b"base", uid=7), directory("tmp", mode=0o1777)]
TOP = [file("hello", b"hi", mode=0o4755)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[paths.Store]:
    with emptied(tmp_path / "store") as made:
        yield made


def identities(directories: list[Path]) -> list[int]:
    return [path.stat().st_ino for path in directories]


# --- what comes out


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_layers_are_directories_topmost_first(store: paths.Store, compression: str) -> None:
    top, base = unpacked(store, stores.add(store, images.build_image([BASE, TOP], compression=compression)))
    assert trees.look(top)["hello"][:5] == ("file", 0o4755, 0, 0, "hi")
    found = trees.look(base)
    assert found["etc/conf"][:5] == ("file", 0o644, 7, 0, "base")
    assert (found["tmp"].mode, found[""][:4]) == (0o1777, ("directory", 0o755, 0, 0))


def test_second_call_gives_the_same_directories_and_needs_no_blobs(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([BASE, TOP]))
    first = unpacked(store, image)
    before = identities(first)
    for digest in stores.blobs(store):
        os.unlink(store.blob(digest))
    assert unpacked(store, image) == first
    assert identities(first) == before
    assert left(store) == {path.name for path in first}


def test_directories_that_are_there_are_named_while_others_ask_for_them(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([BASE]))
    found = unpacked(store, image)
    with Holder(Path(store.layer_map_lock(layer_names.map_name(trees.isolated()))), "shared"):
        assert unpacked(store, image) == found


def test_layer_that_two_images_share_is_unpacked_once(store: paths.Store) -> None:
    (base,) = unpacked(store, stores.add(store, images.build_image([BASE])))
    before = identities([base])
    top, below = unpacked(store, stores.add(store, images.build_image([BASE, TOP])))
    assert (below, identities([below])) == (base, before)
    assert left(store) == {top.name, base.name}


def test_layer_that_went_missing_is_unpacked_again_and_the_others_stay(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([BASE, TOP]))
    top, base = unpacked(store, image)
    before = identities([top])
    unpacking.remove(str(base.parent), [base.name], trees.isolated())
    assert unpacked(store, image) == [top, base]
    assert identities([top]) == before
    assert trees.look(base)["etc/conf"].text == "base"


def test_image_without_layers_is_an_empty_directory_of_its_root(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([]))
    (empty,) = unpacked(store, image)
    before = identities([empty])
    assert {path: node[:4] for path, node in trees.look(empty).items()} == {"": ("directory", 0o755, 0, 0)}
    assert unpacked(store, image) == [empty]
    assert identities([empty]) == before


def test_same_layer_twice_in_an_image_is_one_directory_at_its_topmost_place(store: paths.Store, tmp_path: Path) -> None:
    image = stores.add(store, images.build_image([BASE, TOP, [file("etc/.wh.conf"), directory("etc")], TOP, BASE, BASE]))
    found = unpacked(store, image)
    assert len(set(found)) == len(found) == 3
    # overlayfs refuses a lower directory that is given twice
    shown = trees.stacked(found, tmp_path / "empty")
    assert (shown["etc/conf"].text, shown["hello"].text) == ("base", "hi")
    assert unpacked(store, image) == found


@pytest.mark.parametrize("mode", [0, 0o700, 0o1777])
def test_layer_whose_root_is_closed_to_the_account_carries_others(store: paths.Store, mode: int) -> None:
    closed = [directory("./", mode=mode, uid=5), directory("d", mode=0o711), directory("hidden")]
    image = stores.add(store, images.build_image([closed, [file("d/x")], [file(".wh..wh..opq"), file("e/y")]]))
    top, middle, base = unpacked(store, image)
    assert trees.look(base)[""][:4] == ("directory", mode, 5, 0)
    assert trees.look(middle)["d"].mode == 0o711
    assert trees.look(top)["hidden"].kind == "whiteout"
    assert unpacked(store, image) == [top, middle, base]


# --- id maps


def test_each_map_has_layers_of_its_own(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([BASE]))
    shared = trees.first_user().shared_map(trees.account(), container_id=1000)
    (one,), (two,) = unpacked(store, image), unpacked(store, image, shared)
    assert one.parent.name != two.parent.name
    assert one.name == two.name


@pytest.mark.parametrize("shared_id", [0, 1, 7, 1000, 65535])
def test_in_a_shared_map_one_container_id_is_the_account_and_the_others_are_the_slice(store: paths.Store, shared_id: int) -> None:
    shared = trees.first_user().shared_map(trees.account(), container_id=shared_id)
    ids = [0, 1, 7, 1000, 65535]
    image = stores.add(store, images.build_image([[file(f"f{number}", uid=number, gid=number) for number in ids]]))
    (path,) = unpacked(store, image, shared)
    owners = trees.in_keeper(lambda: {name: [os.stat(path / name).st_uid, os.stat(path / name).st_gid] for name in os.listdir(path)})
    # the keeper sees the account as 0 and the slice from 1 on
    assert owners == {f"f{number}": [0, 0] if number == shared_id else [number + 1, number + 1] for number in ids}
    assert trees.in_keeper(lambda: os.stat(path).st_uid) == (0 if shared_id == 0 else 1)


maps = st.builds(
    lambda number, shared_id: (
        BuildUser("", number, 200_000 + number * 65536, 300_000 + number * 65536).isolated_map()
        if shared_id is None
        else BuildUser("", number, 200_000 + number * 65536, 300_000 + number * 65536).shared_map(trees.account(), container_id=shared_id)
    ),
    st.integers(0, 3),
    st.none() | st.sampled_from([0, 1, 2, 1000, 65533, 65534, 65535]) | st.integers(0, 65535),
)


@given(maps, maps)
def test_two_maps_have_one_name_only_if_they_are_the_same(one: IdMap, two: IdMap) -> None:
    assert (layer_names.map_name(one) == layer_names.map_name(two)) == (one == two)


def test_names_of_maps_for_every_shared_id_are_different_and_safe() -> None:
    user = trees.first_user()
    names = {layer_names.map_name(user.shared_map(trees.account(), container_id=number)) for number in range(65536)}
    assert len(names) == 65536
    assert {paths.component(name) for name in names} == names


# --- names of layers

UNDESCRIBED = [file("shared/new")]


def test_layer_with_undescribed_directories_looks_as_its_base_and_is_named_by_the_chain(store: paths.Store) -> None:
    bases = [[directory("shared", mode=mode, uid=mode)] for mode in (0o700, 0o711)]
    built = [images.build_image([base, UNDESCRIBED]) for base in bases]
    tops = [unpacked(store, stores.add(store, one))[0] for one in built]
    assert [trees.look(top)["shared"][:3] for top in tops] == [("directory", 0o700, 0o700), ("directory", 0o711, 0o711)]
    chains = [images.digest_of(f"{one.diff_ids[0]} {one.diff_ids[1]}".encode()) for one in built]
    assert [top.name for top in tops] == [f"c{short(chain)}" for chain in chains]


def test_layer_with_undescribed_directories_is_shared_by_images_with_the_same_base(store: paths.Store) -> None:
    short = unpacked(store, stores.add(store, images.build_image([BASE, UNDESCRIBED])))
    before = identities(short)
    long = unpacked(store, stores.add(store, images.build_image([BASE, UNDESCRIBED, TOP])))
    assert (long[1:], identities(long[1:])) == (short, before)


def test_layer_that_describes_its_directories_is_named_by_itself_over_any_base(store: paths.Store) -> None:
    top = [directory("shared"), *UNDESCRIBED]
    built = [images.build_image([base, top]) for base in (BASE, TOP)]
    found = {unpacked(store, stores.add(store, one))[0].name for one in built}
    assert found == {short(built[0].diff_ids[1])}


def test_every_name_that_a_layer_gets_is_one_that_the_image_foretells(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([BASE, UNDESCRIBED, TOP, UNDESCRIBED]))
    assert {path.name for path in unpacked(store, image)} <= layer_names.names_of(image)

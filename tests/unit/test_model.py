"""The id maps of a build user, and the names of images."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.model import Account, BuildUser, Extent, IdMap, Reference

ACCOUNT = Account("ci", 1000, 1001, "/home/ci")
USER = BuildUser("project", 3, 200000, 400000)


def test_isolated_map_gives_the_whole_slice_and_not_the_account() -> None:
    assert USER.isolated_map() == IdMap((Extent(0, 200000, 65536),), (Extent(0, 400000, 65536),))


def test_keeper_map_is_the_account_and_the_slice() -> None:
    assert USER.keeper_map(ACCOUNT) == IdMap((Extent(0, 1000, 1), Extent(1, 200000, 65536)), (Extent(0, 1001, 1), Extent(1, 400000, 65536)))


def test_shared_map_puts_the_account_in_the_place_of_one_id() -> None:
    assert USER.shared_map(ACCOUNT, container_id=7).uids == (Extent(0, 200000, 7), Extent(7, 1000, 1), Extent(8, 200008, 65528))


def test_shared_map_can_have_the_accounts_group_at_another_number() -> None:
    found = USER.shared_map(ACCOUNT, container_id=7, container_gid=9)
    assert found.uids == USER.shared_map(ACCOUNT, container_id=7).uids
    assert found.gids == USER.shared_map(ACCOUNT, container_id=9).gids
    with pytest.raises(ValueError, match="container id"):
        USER.shared_map(ACCOUNT, container_id=7, container_gid=65536)


@pytest.mark.parametrize("container_id", [-1, 65536, 2**32])
def test_shared_map_refuses_ids_that_containers_do_not_have(container_id: int) -> None:
    with pytest.raises(ValueError, match="container id"):
        USER.shared_map(ACCOUNT, container_id=container_id)


@given(st.sampled_from([0, 1, 65534, 65535]) | st.integers(0, 65535))
@settings(max_examples=20)
def test_shared_map_covers_every_id_once_and_never_leaves_the_slice(container_id: int) -> None:
    id_map = USER.shared_map(ACCOUNT, container_id=container_id)
    for extents, own, start in ((id_map.uids, 1000, 200000), (id_map.gids, 1001, 400000)):
        assert all(extent.count > 0 for extent in extents)  # the kernel refuses others
        inside = [number for extent in extents for number in range(extent.inside, extent.inside + extent.count)]
        assert inside == list(range(65536))
        outside = [number for extent in extents for number in range(extent.outside, extent.outside + extent.count)]
        assert outside[container_id] == own
        assert all(number == start + index for index, number in enumerate(outside) if index != container_id)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (Reference("docker.io", "library/alpine", "3.20", ""), "docker.io/library/alpine:3.20"),
        (Reference("r.example:5000", "a/b", "", "sha256:00"), "r.example:5000/a/b@sha256:00"),
        (Reference("r.example", "a", "t", "sha256:00"), "r.example/a:t@sha256:00"),
    ],
)
def test_a_reference_is_written_as_people_write_it(reference: Reference, text: str) -> None:
    assert str(reference) == text

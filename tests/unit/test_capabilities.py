"""Capabilities by name, and what adding and dropping leaves."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors
from runner.sandbox import capabilities

# bits of include/uapi/linux/capability.h that docker leaves to root of a container
DOCKERS_MASK = 0x00000000A80425FB
SOME = st.lists(st.sampled_from(capabilities.ALL), max_size=5)


def test_the_default_is_dockers() -> None:
    assert bin(DOCKERS_MASK).count("1") == len(set(capabilities.DEFAULT)) == 14
    assert set(capabilities.DEFAULT) < set(capabilities.ALL)


def test_every_capability_of_linux_up_to_checkpoint_restore_has_its_name_once() -> None:
    assert len(set(capabilities.ALL)) == len(capabilities.ALL) == 41
    assert all(re.fullmatch(r"CAP_[A-Z_]+", name) for name in capabilities.ALL)


@pytest.mark.parametrize("name", ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin", " Net_Admin "])
def test_a_name_may_be_written_in_any_way(name: str) -> None:
    assert capabilities.parse(name) == ("CAP_NET_ADMIN",)


@pytest.mark.parametrize("name", ["ALL", "all"])
def test_all_are_all(name: str) -> None:
    assert capabilities.parse(name) == capabilities.ALL


@pytest.mark.parametrize("name", ["", "CAP_", "CAP_ALL", "NET_ADMINS", "CAP_CAP_NET_ADMIN", "NET ADMIN"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(errors.UserError, match="is unknown"):
        capabilities.parse(name)


def test_without_wishes_the_base_stays() -> None:
    assert set(capabilities.adjusted((), ())) == set(capabilities.DEFAULT)
    assert capabilities.adjusted((), (), base=("CAP_KILL",)) == ("CAP_KILL",)


def test_dropping_all_and_adding_one_leaves_one() -> None:
    assert capabilities.adjusted(["NET_ADMIN"], ["ALL"]) == ("CAP_NET_ADMIN",)
    assert capabilities.adjusted([], ["ALL"]) == ()


def test_adding_all_and_dropping_one_leaves_the_rest() -> None:
    assert set(capabilities.adjusted(["ALL"], ["SYS_ADMIN"])) == set(capabilities.ALL) - {"CAP_SYS_ADMIN"}
    assert set(capabilities.adjusted(["ALL"], [])) == set(capabilities.ALL)


@given(SOME, SOME)
def test_what_was_dropped_is_gone_and_what_was_added_is_there(add: list[str], drop: list[str]) -> None:
    found = set(capabilities.adjusted(add, drop))
    assert not found & set(drop)
    assert set(add) - set(drop) <= found
    assert found <= set(capabilities.DEFAULT) | set(add)


@given(SOME, SOME, SOME)
def test_the_order_of_wishes_does_not_matter(add: list[str], drop: list[str], base: list[str]) -> None:
    one = capabilities.adjusted(add, drop, base=tuple(base))
    assert one == capabilities.adjusted(add[::-1] * 2, drop[::-1] * 2, base=tuple(base[::-1]))

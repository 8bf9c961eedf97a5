"""Leases of slices: lowest free one first, for good, and never two names on one slice."""

import itertools
import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors, paths
from runner.kernel import accounts
from runner.kernel.userns import Range
from runner.model import Account
from runner.sandbox import build_users
from tests.support import stores
from tests.support.defences import attack, without

RANGES = st.lists(st.builds(Range, st.integers(0, 2**20), st.integers(0, 2**19)), max_size=4).map(tuple)


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "state")


@pytest.fixture
def account() -> Account:
    found = accounts.current()
    assert len(build_users.available(found)) >= 4, "the account needs 4 * 65536 subordinate ids: use ./dev test"
    return found


def write(store: paths.Store, text: str) -> None:
    Path(store.build_users).write_text(text)


def test_ranges_are_cut_into_whole_slices_in_order() -> None:
    uids = (Range(100_000, 65536 * 2 + 1), Range(10, 65535), Range(900_000, 65536))
    gids = (Range(500_000, 65536 * 3),)
    assert build_users.slices(uids, gids) == [(100_000, 500_000), (165_536, 565_536), (900_000, 631_072)]


def test_a_slice_needs_both_kinds_of_ids() -> None:
    assert build_users.slices((Range(1, 65536 * 3),), (Range(1, 65536),)) == [(1, 1)]
    assert build_users.slices((Range(1, 65536 * 3),), ()) == []
    assert build_users.slices((Range(1, 65535),), (Range(1, 65536),)) == []


def test_ids_that_are_granted_twice_are_in_one_slice_only() -> None:
    ranges = (Range(100_000, 65536), Range(100_000, 65536 * 3), Range(140_000, 65536))
    assert build_users.slices(ranges, (Range(0, 65536 * 9),)) == [(100_000, 0), (165_536, 65_536), (231_072, 131_072)]


@given(RANGES, RANGES)
def test_slices_lie_in_their_ranges_and_never_meet(uids: tuple[Range, ...], gids: tuple[Range, ...]) -> None:
    found = build_users.slices(uids, gids)
    for starts, ranges in (([uid for uid, _ in found], uids), ([gid for _, gid in found], gids)):
        assert all(any(r.start <= start and start + 65536 <= r.start + r.count for r in ranges) for start in starts)
        assert all(later - earlier >= 65536 for earlier, later in itertools.pairwise(sorted(starts)))


def test_names_get_the_lowest_free_slice_and_keep_it(store: paths.Store, account: Account) -> None:
    first, second = build_users.lease(store, account, "a"), build_users.lease(store, account, "b")
    assert (first.number, second.number) == (0, 1)
    assert (first.uid_start, first.gid_start) == build_users.available(account)[0]
    assert build_users.lease(store, account, "a") == first
    assert build_users.every(store, account) == [first, second]


def test_a_slice_that_was_given_back_is_the_next_to_be_leased(store: paths.Store, account: Account) -> None:
    for name in ("a", "b", "c"):
        build_users.lease(store, account, name)
    build_users.release(store, ["b"])
    build_users.release(store, ["b"])
    build_users.release(store, ["never leased"])
    assert build_users.lease(store, account, "d").number == 1
    assert build_users.lease(store, account, "e").number == 3


def test_ranges_of_two_build_users_never_meet(store: paths.Store, account: Account) -> None:
    found = sorted(build_users.lease(store, account, f"n{number}").uid_start for number in range(4))
    assert all(later - earlier >= 65536 for earlier, later in itertools.pairwise(found))


@attack(
    52,
    without("runner/sandbox/build_users.py", "if number not in taken), None)", "if number not in taken), 0)"),
)
def test_without_a_free_slice_nobody_else_s_is_given(store: paths.Store, account: Account) -> None:
    count = len(build_users.available(account))
    write(store, json.dumps({f"n{number}": number for number in range(count)}))
    with pytest.raises(errors.InfraError, match=f"all {count} are leased") as caught:
        build_users.lease(store, account, "one-more")
    assert "usermod" in caught.value.hint
    assert build_users.lease(store, account, "n3").number == 3


def test_a_lease_on_ids_that_were_taken_away_is_not_moved(store: paths.Store, account: Account) -> None:
    count = len(build_users.available(account))
    write(store, json.dumps({"a": count}))
    with pytest.raises(errors.InfraError, match=f"leases slice {count}"):
        build_users.lease(store, account, "a")
    assert build_users.every(store, account) == []


def test_an_account_without_subordinate_ids_is_told_how_to_get_them(store: paths.Store) -> None:
    nobody = Account("account-that-has-none", 4_000_000_000, 0, "/")
    with pytest.raises(errors.InfraError, match="no 65536 subordinate ids") as caught:
        build_users.lease(store, nobody, "a")
    assert "account-that-has-none" in caught.value.hint
    assert build_users.every(store, nobody) == []


@attack(
    50,
    without("runner/sandbox/build_users.py", "if not isinstance(value, dict) or not _are_leases(list(value.values())):", "if False:"),
)
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"a": "0"}', '{"a": -1}', '{"a": 0.5}', '{"a": null}', '{"a": true}', '{"a": 1, "b": 1}', "\x00"]
)
def test_a_damaged_list_is_never_guessed_at(store: paths.Store, account: Account, text: str) -> None:
    write(store, text)
    with pytest.raises(errors.InfraError, match="is damaged"):
        build_users.lease(store, account, "new")
    assert Path(store.build_users).read_text() == text


def lease_in_child(root: str, name: str, barrier: "multiprocessing.synchronize.Barrier") -> int:
    barrier.wait()
    return build_users.lease(paths.Store(root), accounts.current(), name).number


def test_side_by_side_every_name_has_one_slice_and_every_slice_one_name(store: paths.Store, account: Account) -> None:
    context = multiprocessing.get_context("fork")
    names = [f"n{number % 3}" for number in range(6)]
    with context.Manager() as manager, context.Pool(len(names)) as pool:
        barrier = manager.Barrier(len(names))
        numbers = pool.starmap(lease_in_child, [(store.root, name, barrier) for name in names])
    assert len(set(zip(names, numbers, strict=True))) == 3
    assert set(numbers) == {0, 1, 2}

"""What `dockless setup` plans: facts about a machine -> changes, nothing done."""

from typing import Any

import pytest

from runner import paths
from runner.errors import InfraError
from runner.image import layer_names
from runner.model import Account, BuildUser, Extent, IdMap
from runner.setup import plan, texts
from runner.setup.machine import Machine, Wishes
from runner.setup.plan import Kind

WISHES = Wishes(account="ci", state_dir="", slices=4, service="agent", program="/opt/dockless")
ACCOUNT = Account("ci", 995, 990, "/home/ci")
SLICES = tuple((number * 65536, number * 65536) for number in range(10, 13))
SHARED = BuildUser("", 0, *SLICES[0]).isolated_map()
BARE = Machine(None, (), 0, paths.Store("/var/lib/ci/store"), False, None, "", frozenset(), True, "", "", {})
READY = BARE._replace(
    account=ACCOUNT, slices=SLICES, has_store=True, shared=SHARED, below="/views", views=frozenset(plan.maps(ACCOUNT, SLICES, SHARED)),
    unit=texts.unit("/opt/dockless", account="ci", state_dir="/var/lib/ci/store"), drop_in=texts.drop_in("/opt/dockless", account="ci"),
)  # fmt: skip


def kinds(changes: list[plan.Change]) -> list[Kind]:
    return [change.kind for change in changes]


def test_bare_machine_lacks_everything_in_the_order_of_need() -> None:
    assert kinds(plan.setup(WISHES, BARE)) == [Kind.account, Kind.ids, Kind.store, Kind.views, Kind.unit, Kind.drop_in]


def test_machine_that_has_everything_is_left_alone() -> None:
    assert plan.setup(WISHES, READY) == []


@pytest.mark.parametrize(
    ("lack", "wanted"),
    [
        ({"slices": SLICES[:1]}, [Kind.ids]),
        ({"shared": None, "views": frozenset()}, [Kind.store, Kind.views]),
        ({"views": frozenset()}, [Kind.views]),
        ({"views": READY.views | {"s1"}}, [Kind.views]),
        ({"unit": "another version's"}, [Kind.unit]),
        ({"drop_in": ""}, [Kind.drop_in]),
        ({"unit": "", "drop_in": "", "has_systemd": False}, []),
    ],
)
def test_only_what_is_missing_is_planned(lack: dict[str, Any], wanted: list[Kind]) -> None:
    found = READY._replace(**lack)
    if "slices" in lack:
        found = found._replace(views=frozenset(plan.maps(ACCOUNT, found.slices, SHARED)))
    assert kinds(plan.setup(WISHES, found)) == wanted


@pytest.mark.parametrize(("first_free", "start"), [(0, 524288), (524288, 524288), (524289, 589824), (1_000_000_000, 1_000_013_824)])
def test_ids_begin_on_a_round_number_above_everybodys(first_free: int, start: int) -> None:
    (ids,) = (change for change in plan.setup(WISHES, BARE._replace(first_free_id=first_free)) if change.kind == Kind.ids)
    assert ids.argument == f"{start}-{start + 4 * 65536 - 1}"
    assert ids.words == f"usermod --add-subuids {ids.argument} --add-subgids {ids.argument} ci"


def test_root_is_no_account_for_the_engine() -> None:
    with pytest.raises(InfraError, match="is root"):
        plan.setup(WISHES, READY._replace(account=Account("ci", 0, 0, "/root")))


def test_each_build_user_has_a_view_for_each_map_and_the_owner_of_the_layers_has_none() -> None:
    views = plan.maps(ACCOUNT, SLICES, SHARED)
    users = [BuildUser("", number, *slice_) for number, slice_ in enumerate(SLICES)]
    expected = {
        layer_names.map_name(id_map)
        for user in users[1:]
        for id_map in (
            user.isolated_map(), user.shared_map(ACCOUNT, container_id=0), user.shared_map(ACCOUNT, container_id=ACCOUNT.uid),
            user.shared_map(ACCOUNT, container_id=ACCOUNT.uid, container_gid=ACCOUNT.gid),
        )
    }  # fmt: skip
    assert set(views) == expected
    assert len(expected) == 8


def test_view_turns_ids_on_the_disk_into_those_that_the_container_has_outside() -> None:
    user = BuildUser("", 1, *SLICES[1])
    shared = user.shared_map(ACCOUNT, container_id=0)
    view = plan.maps(ACCOUNT, SLICES, SHARED)[layer_names.map_name(shared)]
    first, second = SLICES[0][0], SLICES[1][0]
    rest = Extent(first + 1, second + 1, 65535)
    assert view == IdMap((Extent(first, 995, 1), rest), (Extent(first, 990, 1), rest))


def test_undo_takes_back_what_there_is_and_leaves_the_account_to_its_store() -> None:
    made = READY._replace(record={"account": "ci", "ids": "1-2"})
    assert kinds(plan.undo(WISHES, made, purge=False)) == [Kind.remove_drop_in, Kind.remove_unit, Kind.remove_views, Kind.unshare]


def test_undo_with_purge_removes_store_and_account() -> None:
    made = READY._replace(record={"account": "ci", "ids": "1-2"})
    assert kinds(plan.undo(WISHES, made, purge=True))[3:] == [Kind.purge, Kind.remove_account, Kind.remove_record]


def test_undo_keeps_an_account_that_was_there_before() -> None:
    adopted = READY._replace(record={"ids": "1-2"}, has_store=False)
    changes = plan.undo(WISHES, adopted, purge=False)
    assert Kind.remove_account not in kinds(changes)
    assert "usermod --del-subuids 1-2 --del-subgids 1-2 ci" in [change.words for change in changes]


def test_undo_of_nothing_is_nothing() -> None:
    assert plan.undo(WISHES, BARE, purge=True) == []


def test_unit_quotes_what_systemd_would_expand() -> None:
    assert "'/a b/100%%$$x'" in texts.unit("/a b/100%$x", account="ci", state_dir="/s")

"""What is to be changed on a machine, in order and as data: facts in, changes out, nothing done here."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from runner import paths
from runner.errors import InfraError
from runner.image import layer_names
from runner.model import IDS_PER_BUILD_USER, Account, BuildUser, Extent, IdMap
from runner.setup import machine, texts
from runner.setup.machine import Machine, Wishes

_LOWEST_ID = 8 * IDS_PER_BUILD_USER


class Kind(StrEnum):
    """What a change does; setup.apply knows how."""

    account = "account"
    ids = "ids"
    store = "store"
    views = "views"
    unit = "unit"
    drop_in = "drop-in"
    record = "record"
    remove_unit = "remove unit"
    remove_drop_in = "remove drop-in"
    remove_views = "remove views"
    unshare = "unshare"
    purge = "purge"
    remove_account = "remove account"
    remove_record = "remove record"


class Change(NamedTuple):
    """One change: `words` are printed before it is made; `argument` is what its kind needs besides the facts."""

    kind: Kind
    words: str
    argument: str = ""


def setup(wishes: Wishes, found: Machine) -> list[Change]:
    """Return what a machine lacks, [] when it has everything. What depends on an account that is yet to be made is said without numbers."""
    return list(_setup(wishes, found))


def _setup(wishes: Wishes, found: Machine) -> Iterator[Change]:
    name = wishes.account
    if found.account is not None and found.account.uid == 0:
        raise InfraError(f"account {name} is root, whose rights the engine is never to have", "name another one with --account")
    if found.account is None:
        home = f"/var/lib/{name}"
        yield Change(Kind.account, f"useradd --system --user-group --create-home --home-dir {home} --shell /bin/sh {name}", home)
    if len(found.slices) < 2:
        start = max(_LOWEST_ID, -(-found.first_free_id // IDS_PER_BUILD_USER) * IDS_PER_BUILD_USER)
        ids = f"{start}-{start + wishes.slices * IDS_PER_BUILD_USER - 1}"
        yield Change(Kind.ids, f"usermod --add-subuids {ids} --add-subgids {ids} {name}", ids)
    if found.shared is None:
        yield Change(Kind.store, f"make the store {found.store.root}, of {name}, with a slice of ids for the layers that all share")
    wanted = maps(found.account, found.slices, found.shared) if found.account and found.shared else None
    if wanted is None:
        yield Change(Kind.views, f"mount read-only views of its shared layers below {paths.VIEWS}")
    elif set(wanted) != found.views:
        missing, idle = len(set(wanted) - found.views), len(found.views - set(wanted))
        stale = f", unmount {idle} that nobody needs" if idle else ""
        yield Change(Kind.views, f"mount {missing} read-only views of the shared layers below {found.below}{stale}")
    if found.has_systemd:
        if found.unit != texts.unit(wishes.program, account=name, state_dir=found.store.root):
            yield Change(Kind.unit, f"write {machine.UNIT}, and enable it, so that the views come back at boot")
        if found.drop_in != texts.drop_in(wishes.program, account=name):
            yield Change(Kind.drop_in, f"write {wishes.drop_in()}, so that limits are enforced from its next start on")


def undo(wishes: Wishes, found: Machine, *, purge: bool) -> list[Change]:
    """Return how to take back what `setup` made. Account and ids stay as long as a store has files of theirs."""
    return list(_undo(wishes, found, purge=purge))


def _undo(wishes: Wishes, found: Machine, *, purge: bool) -> Iterator[Change]:
    account = found.account
    if found.drop_in:
        yield Change(Kind.remove_drop_in, f"remove {wishes.drop_in()}")
    if found.unit:
        yield Change(Kind.remove_unit, f"disable and remove {machine.UNIT}")
    if found.views:
        yield Change(Kind.remove_views, f"unmount the {len(found.views)} views below {found.below}")
    if account and found.has_store and purge:
        yield Change(Kind.purge, f"remove the store {found.store.root} with all images and caches")
    elif account and found.shared:
        yield Change(Kind.unshare, f"remove the shared layers in {found.store.root}; images are unpacked for each build user again")
    if account and found.record.get("account") == account.name and (purge or not found.has_store):
        yield Change(Kind.remove_account, f"userdel --remove {account.name}, with its subordinate ids")
    elif account and found.record.get("ids") and (purge or not found.has_store):
        ids = str(found.record["ids"])
        yield Change(Kind.ids, f"usermod --del-subuids {ids} --del-subgids {ids} {account.name}", f"del {ids}")
    if found.record and (purge or not found.has_store):
        yield Change(Kind.remove_record, f"remove {machine.RECORD}")


def maps(account: Account, slices: tuple[tuple[int, int], ...], shared: IdMap) -> dict[str, IdMap]:
    """Return every view: the name of the map that containers have, and the map from ids on the disk to ids of the host.

    For each build user the isolated map, and the shared-workspace maps where container id 0 or the account's own number is the account,
    and the one where its group's own number is its group as well, which Jenkins' `docker run -u UID:GID` means.
    """
    first = shared.uids[0].outside, shared.gids[0].outside
    found = {}
    for number, slice_ in enumerate(slices):
        if slice_ == first:
            continue  # nobody's containers run with these
        user = BuildUser("", number, *slice_)
        own = ((account.uid, account.uid), (account.uid, account.gid))
        chosen = [(0, 0), *(pair for pair in own if max(pair) < IDS_PER_BUILD_USER)]
        workspaces = (user.shared_map(account, container_id=uid, container_gid=gid) for uid, gid in chosen)
        for id_map in (user.isolated_map(), *workspaces):
            found[layer_names.map_name(id_map)] = IdMap(
                tuple(_from_disk(extent, first[0]) for extent in id_map.uids), tuple(_from_disk(extent, first[1]) for extent in id_map.gids)
            )
    return found


def _from_disk(extent: Extent, start: int) -> Extent:
    return extent._replace(inside=start + extent.inside)

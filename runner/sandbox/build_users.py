"""Build users: who leases which slice of the account's subordinate ids.

A lease stands as long as the slice's ids may own files of its trust domain anywhere in the store: no other name gets them before.
"""

from __future__ import annotations

from runner import errors, log, paths
from runner.kernel import files, locks, userns
from runner.model import IDS_PER_BUILD_USER, BuildUser, Extent, IdMap, beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.kernel.userns import Range
    from runner.model import Account

SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"
LOCAL = "local"  # whose containers `dockless run` starts
IMAGES = "(images)"  # who owns the shared layers: no container ever runs with its ids, and no trust domain can be called that


class NoneFree(errors.InfraError):
    """Every slice is leased."""


def slices(uids: tuple[Range, ...], gids: tuple[Range, ...]) -> list[tuple[int, int]]:
    """Cut both lists of ranges into slices of 65,536 ids, in order, and pair them: (first uid, first gid). No id is in two slices."""
    return list(zip(_cut(uids), _cut(gids), strict=False))


def _cut(ranges: tuple[Range, ...]) -> list[int]:
    found: list[int] = []
    for granted in ranges:
        starts = range(granted.start, granted.start + granted.count - IDS_PER_BUILD_USER + 1, IDS_PER_BUILD_USER)
        # /etc/subuid may grant the same ids twice
        found += [start for start in starts if all(abs(start - other) >= IDS_PER_BUILD_USER for other in found)]
    return found


def available(account: Account) -> list[tuple[int, int]]:
    """Return the slices that the system grants to the account."""
    return slices(
        userns.subordinate_ranges(account.name, account.uid, SUBUID), userns.subordinate_ranges(account.name, account.uid, SUBGID)
    )


def every_map(account: Account) -> IdMap:
    """Map 0 to the account and 1… to all of its slices: who is root there may remove what any container of the account wrote."""
    uids, gids = zip(*available(account), strict=True) if available(account) else ((), ())
    return IdMap(_side(account.uid, uids), _side(account.gid, gids))


def _side(own: int, starts: tuple[int, ...]) -> tuple[Extent, ...]:
    return beside(own, [Extent(0, start, IDS_PER_BUILD_USER) for start in sorted(starts)])


def lease(store: paths.Store, account: Account, name: str) -> BuildUser:
    """Return the build user called `name`, leasing the lowest free slice to it the first time. Persistent, safe side by side.

    With a single slice everybody shares it, with a warning. InfraError when there is no slice, NoneFree when none is left.
    """
    slots = available(account)
    if not slots:
        raise errors.InfraError(f"account {account.name} has no 65536 subordinate ids in {SUBUID} and {SUBGID}", _mend(account))
    if len(slots) == 1:
        log.debug("one slice of subordinate ids: build users are not separated from each other")
        return BuildUser(name, 0, *slots[0])
    known = _read(store)
    if name in known and known[name] < len(slots):
        return BuildUser(name, known[name], *slots[known[name]])
    with locks.hold(store.lock):
        known = _read(store)
        if name not in known:
            taken = set(known.values())
            free = next((number for number in range(len(slots)) if number not in taken), None)
            if free is None:
                raise NoneFree(f"no slice of subordinate ids is free for {name}: all {len(slots)} are leased", _mend(account))
            known[name] = free
            files.write_json(store.build_users, known)
    number = known[name]
    if number >= len(slots):
        raise errors.InfraError(
            f"build user {name} leases slice {number}, but the account has only {len(slots)}", f"give back what was taken from {SUBUID}"
        )
    return BuildUser(name, number, *slots[number])


def every(store: paths.Store, account: Account) -> list[BuildUser]:
    """Return all build users with a lease, by name."""
    slots = available(account)
    return [BuildUser(name, number, *slots[number]) for name, number in sorted(_read(store).items()) if number < len(slots)]


def confirm(store: paths.Store, account: Account, user: BuildUser) -> None:
    """Make sure that a lease, which was read without the lock, still stands; one that was released meanwhile is taken again.

    The caller holds `store.lock`. Temporary if the slice has become somebody else's.
    """
    known = _read(store)
    if known.get(user.name) == user.number or len(available(account)) == 1:
        return
    if user.name in known or user.number in known.values():
        raise errors.Temporary(f"the ids of build user {user.name} have just been given to somebody else", "try again")
    files.write_json(store.build_users, {**known, user.name: user.number})


def release(store: paths.Store, names: Sequence[str]) -> None:
    """Give slices back. The caller holds `store.lock` and has removed every file of them. Idempotent."""
    known = _read(store)
    kept = {name: number for name, number in known.items() if name not in names}
    if kept != known:
        files.write_json(store.build_users, kept)


def _read(store: paths.Store) -> dict[str, int]:
    try:
        value = files.read_json(store.build_users)
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise errors.InfraError(f"{store.build_users} is damaged: {e}", "restore it: it says who owns which files of the store") from e
    if not isinstance(value, dict) or not _are_leases(list(value.values())):
        raise errors.InfraError(f"{store.build_users} is damaged", "restore it: it says who owns which files of the store")
    return value


def _are_leases(numbers: list[object]) -> bool:
    """Tell whether these are numbers of slices, each leased once."""
    return all(type(number) is int and number >= 0 for number in numbers) and len(set(numbers)) == len(numbers)


def _mend(account: Account) -> str:
    return f"usermod --add-subuids 500000000-502097151 --add-subgids 500000000-502097151 {account.name} (as root; adds 32 slices)"

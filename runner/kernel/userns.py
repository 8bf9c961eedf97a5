"""User namespaces with subordinate ids (user_namespaces(7), subuid(5), newuidmap(1))."""

from __future__ import annotations

import os

from runner.kernel import process, signals, syscalls
from runner.model import Extent, IdMap
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_IDS = 2**32 - 1  # the last number, (uid_t) -1, means "no id"


class Range(NamedTuple):
    """Consecutive subordinate ids that an account may use."""

    start: int
    count: int  # type: ignore[assignment]  # the kernel's word; tuple.count is not missed


def subordinate_ranges(account: str, uid: int, path: str) -> tuple[Range, ...]:
    """Return the ranges that /etc/subuid or /etc/subgid (`path`) grants to an account, by name or number, in file order.

    Lines that do not parse are skipped, as newuidmap(1) does; a missing file grants nothing.
    """
    return tuple(granted for owner, granted in _grants(path) if owner in (account, str(uid)))


def first_free_id(path: str) -> int:
    """Return the first id above everything that /etc/subuid or /etc/subgid (`path`) grants to anybody."""
    return max((granted.start + granted.count for _, granted in _grants(path)), default=0)


def _grants(path: str) -> list[tuple[str, Range]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and all(number.isascii() and number.isdigit() and len(number) <= 10 for number in fields[1:]):
            granted = Range(int(fields[1]), int(fields[2]))
            if granted.start + granted.count <= _IDS:
                found.append((fields[0], granted))
    return found


def enter(id_map: IdMap, flags: int = 0) -> None:
    """Move this (single-threaded) process into a new user namespace with `id_map`, and be root in it.

    `flags` are further CLONE_NEW* namespaces that the new one owns. Outside ids are the caller's view. The map is written by newuidmap
    and newgidmap from a helper process that stays outside. Raises OSError; process.Failed carries newuidmap's own words.
    """
    ready_r, ready_w = os.pipe()
    answer_r, answer_w = os.pipe()
    target = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(ready_w)
        os.close(answer_r)

        def write_maps() -> None:
            if os.read(ready_r, 1):
                map_with_helpers(target, id_map)

        process.answer_and_exit(answer_w, write_maps)
    os.close(ready_r)
    os.close(answer_w)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | flags)
        os.write(ready_w, b"x")
    finally:
        os.close(ready_w)
        process.receive(helper, answer_r)
    become_root()


def become_root() -> None:
    """Take id 0 of the namespace that was just entered. Stays dumpable, so that the owner may open /proc/<pid>/ns."""
    os.setresgid(0, 0, 0)
    os.setgroups([])  # groups of the account that are not mapped would make chown fail with EPERM
    os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def map_with_helpers(pid: int, id_map: IdMap) -> None:
    """Write the id maps of a process in a fresh user namespace with the setuid helpers newuidmap and newgidmap."""
    helpers = [
        process.start([program, str(pid), *_arguments(extents)])
        for program, extents in (("newuidmap", id_map.uids), ("newgidmap", id_map.gids))
    ]
    for helper in helpers:
        helper.finish()


def map_directly(pid: int, id_map: IdMap) -> None:
    """Write the id maps of a process in a fresh user namespace below ours, in which we are root."""
    for name, extents in (("uid_map", id_map.uids), ("gid_map", id_map.gids)):
        with open(f"/proc/{pid}/{name}", "w", encoding="utf-8") as file:
            file.write("".join(f"{e.inside} {e.outside} {e.count}\n" for e in extents))


def _arguments(extents: tuple[Extent, ...]) -> list[str]:
    return [str(number) for extent in extents for number in extent]


def relative(inner: IdMap, outer: IdMap) -> IdMap:
    """Return `inner` (container to host) with its outside ids seen from inside `outer` (also to host).

    An extent of `inner` must lie in one extent of `outer`; ValueError otherwise.
    """

    def translate(extents: tuple[Extent, ...], through: tuple[Extent, ...]) -> tuple[Extent, ...]:
        out = []
        for extent in extents:
            for step in through:
                if step.outside <= extent.outside and extent.outside + extent.count <= step.outside + step.count:
                    out.append(Extent(extent.inside, step.inside + extent.outside - step.outside, extent.count))
                    break
            else:
                raise ValueError(f"ids {extent.outside}+{extent.count} are not mapped in the outer namespace")
        return tuple(out)

    return IdMap(translate(inner.uids, outer.uids), translate(inner.gids, outer.gids))


def call(id_map: IdMap, function: Callable[[], Any], *, flags: int = 0) -> Any:
    """Run `function` as root of a new user namespace in a child process; return its JSON-able result or raise what it raised.

    Descriptors that are open now are open there too, which is how such a process reaches directories that its ids may not traverse to.
    The child dies with the caller.
    """

    return _call(lambda: enter(id_map, flags), function)


def call_within(namespace: int, function: Callable[[], Any]) -> Any:
    """Run `function` like `call`, as root of a user namespace that exists already and that a descriptor stands for."""

    def join() -> None:
        syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
        become_root()

    return _call(join, function)


def _call(become: Callable[[], None], function: Callable[[], Any]) -> Any:
    def inside() -> Any:
        parent = os.getppid()
        become()
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the caller died before the line above
        os.umask(0o022)
        return function()

    return process.fork_call(inside)

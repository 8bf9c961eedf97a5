"""The system calls that ordinary containers do without: a second fence in front of the kernel's largest and youngest parts.

The distribution's profile is made for what also runs container engines: with it a container may make user namespaces and mount in them,
where most holes of the kernel were found that gave somebody root (CVE-2022-0185, CVE-2023-0386, CVE-2024-1086). What makes containers of
its own, the Docker sidecar and the toolbox of a build, gets it whole; everything else gets it without these groups, of which the
configuration can open each (`security.open`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

# docs/configuration.md has the reason for each
GROUPS = {
    "bpf": ("bpf",),
    "io_uring": ("io_uring_enter", "io_uring_register", "io_uring_setup"),
    "keyring": ("add_key", "keyctl", "request_key"),
    "ldt": ("modify_ldt",),
    "mount": (
        "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree", "pivot_root", "umount", "umount2",
    ),
    "perf": ("perf_event_open",),
    "tiocsti": ("ioctl",),
    "userfaultfd": ("userfaultfd",),
    "userns": ("clone", "clone3", "setns", "unshare"),
}  # fmt: skip
_EPERM, _ENOSYS = 1, 38
_ALLOW, _REFUSE = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
# CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET (sched.h); -TIME, which unshare alone knows, has the number of signals in clone
_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_NEWTIME = 0x00000080
_TYPING = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX: input for whoever reads from a terminal next (CVE-2017-5226)
_WORD = 0xFFFFFFFF


def close(profile: dict[str, Any], groups: Iterable[str], *, machine: str) -> dict[str, Any]:
    """Return an OCI linux.seccomp object with the calls of some groups refused, whatever it says about them itself."""
    names = {name for group in groups for name in GROUPS[group]}
    kept = [{**rule, "names": [name for name in rule["names"] if name not in names]} for rule in profile["syscalls"]]
    rules = [rule for rule in kept if rule["names"]]
    for name in sorted(names):
        rules += _rules(name, machine=machine)
    return {**profile, "syscalls": rules}


def _rules(name: str, *, machine: str) -> Iterator[dict[str, Any]]:
    match name:
        case "clone":
            yield from _without_flags(name, _NAMESPACES, index=1 if machine == "s390x" else 0)
        case "unshare":
            yield from _without_flags(name, (*_NAMESPACES, _NEWTIME), index=0)
        case "clone3":  # its flags are in memory, which no filter sees: the C library falls back on clone
            yield {"names": [name], "action": _REFUSE, "errnoRet": _ENOSYS}
        case "ioctl":
            yield from _without_values(name, _TYPING, index=1)
        case _:
            yield {"names": [name], "action": _REFUSE, "errnoRet": _EPERM}


def _without_flags(name: str, flags: tuple[int, ...], *, index: int) -> Iterator[dict[str, Any]]:
    """Allow a call in which none of some flags is set."""
    yield _rule(name, _ALLOW, index, mask=sum(flags), value=0)
    for flag in flags:
        yield _rule(name, _REFUSE, index, mask=flag, value=flag)


def _without_values(name: str, values: tuple[int, ...], *, index: int) -> Iterator[dict[str, Any]]:
    """Allow a call whose argument has none of some values in its lower half: the kernel does not look at the upper one (CVE-2019-10063).

    A profile cannot say "all but", so whatever differs from all values in one bit, and agrees with one in those above it, is allowed.
    """
    for value in values:
        yield _rule(name, _REFUSE, index, mask=_WORD, value=value)
        for place in range(32):
            mask = _WORD & ~((1 << place) - 1)
            begin = (value ^ (1 << place)) & mask
            if all(other & mask != begin for other in values):
                yield _rule(name, _ALLOW, index, mask=mask, value=begin)


def _rule(name: str, action: str, index: int, *, mask: int, value: int) -> dict[str, Any]:
    compared = {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    rule: dict[str, Any] = {"names": [name], "action": action, "args": [compared]}
    return rule if action == _ALLOW else {**rule, "errnoRet": _EPERM}

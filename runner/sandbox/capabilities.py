"""Capabilities of a container (capabilities(7)): docker's default set, and how a caller changes it."""

from __future__ import annotations

from runner import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip

ALL = (
    *DEFAULT, "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_DAC_READ_SEARCH",
    "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_NET_ADMIN",
    "CAP_NET_BROADCAST", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
)  # fmt: skip


def parse(name: str) -> tuple[str, ...]:
    """Return the capabilities that a name means: with or without CAP_, in any case, or ALL. UserError for an unknown one."""
    upper = name.strip().upper()
    if upper == "ALL":
        return ALL
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL:
        raise errors.UserError(f"capability {name} is unknown", "see capabilities(7) for the names")
    return (full,)


def adjusted(add: Iterable[str], drop: Iterable[str], *, base: tuple[str, ...] = DEFAULT) -> tuple[str, ...]:
    """Return `base` with what docker's --cap-add and --cap-drop say: ALL first, then single names, so that "drop ALL, add X" leaves X."""
    added = {capability for name in add for capability in parse(name)}
    dropped = {capability for name in drop for capability in parse(name)}
    start = set(ALL) if added == set(ALL) else set() if dropped >= set(ALL) else set(base)
    single_add = set() if added == set(ALL) else added
    single_drop = set() if dropped >= set(ALL) else dropped
    return tuple(sorted((start | single_add) - single_drop))

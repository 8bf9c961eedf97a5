"""The seccomp filter: the distribution's containers-common profile, resolved for what a container may do, less what is closed to it.

No copy of our own is kept, so a new system call or a closed hole arrives with the distribution's update.
"""

from __future__ import annotations

import os

from runner import errors
from runner.kernel import files
from runner.sandbox import closed_calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_CLOSING = "1"  # another one whenever closed_calls come to mean something else
PROFILE = "/usr/share/containers/seccomp.json"
CLOSED = tuple(closed_calls.GROUPS)
_ARCHITECTURES = {
    "x86_64": ("amd64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    "aarch64": ("arm64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
    "ppc64le": ("ppc64le", ["SCMP_ARCH_PPC64LE"]),
    "s390x": ("s390x", ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"]),
    "riscv64": ("riscv64", ["SCMP_ARCH_RISCV64"]),
}


def load(capabilities: Sequence[str], *, closed: Sequence[str] = CLOSED, path: str = PROFILE) -> dict[str, Any]:
    """Return the profile resolved for `capabilities`, this machine and its kernel, less the `closed` groups of closed_calls.

    InfraError if it is missing or damaged.
    """
    try:
        profile = files.read_json(path)
    except FileNotFoundError as e:
        raise _missing(path) from e
    except (OSError, ValueError) as e:
        raise errors.InfraError(f"seccomp profile {path} cannot be read: {e}", "install golang-github-containers-common again") from e
    uname = os.uname()
    try:
        resolved = resolve(profile, capabilities=capabilities, machine=uname.machine, kernel=uname.release)
        return closed_calls.close(resolved, closed, machine=uname.machine)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise errors.InfraError(
            f"seccomp profile {path} cannot be read: it is not one of containers-common", "install golang-github-containers-common again"
        ) from e


def _missing(path: str) -> errors.InfraError:
    return errors.InfraError(f"seccomp profile {path} is missing", "apt-get install golang-github-containers-common")


def resolve(profile: dict[str, Any], *, capabilities: Sequence[str], machine: str, kernel: str) -> dict[str, Any]:
    """Turn a containers-common profile (conditions on capabilities, architectures, kernel) into an OCI linux.seccomp object."""
    name, architectures = _ARCHITECTURES.get(machine, (machine, []))
    held = frozenset(capabilities)
    resolved: dict[str, Any] = {
        "defaultAction": profile["defaultAction"],
        "architectures": architectures,
        "syscalls": [_rule(rule) for rule in profile["syscalls"] if _applies(rule, held=held, architecture=name, kernel=_version(kernel))],
    }
    if "defaultErrnoRet" in profile:
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return resolved


def _applies(rule: dict[str, Any], *, held: frozenset[str], architecture: str, kernel: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("caps") and not held.issuperset(includes["caps"]):
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    if excludes.get("caps") and not held.isdisjoint(excludes["caps"]):
        return False
    return not (excludes.get("arches") and architecture in excludes["arches"])


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
    if rule.get("args"):
        kept["args"] = rule["args"]
    if rule.get("errnoRet") is not None:
        kept["errnoRet"] = rule["errnoRet"]
    return kept


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = ""
    for character in rest:
        if not character.isdigit():
            break
        minor += character
    return int(major), int(minor or 0)


def compiled_name(capabilities: Sequence[str], *, crun: str, closed: Sequence[str] = CLOSED, path: str = PROFILE) -> str:
    """Name the compiled form of what `load` returns: another profile, crun or kernel gives another name.

    InfraError without a profile.
    """
    known = [_CLOSING, *sorted(capabilities), *sorted(closed)]
    bits = 0
    for character in " ".join(known).encode():
        bits = (bits * 257 + character) % (1 << 61)
    try:
        profile = os.stat(path)
    except FileNotFoundError as e:
        raise _missing(path) from e
    program, uname = os.stat(crun), os.uname()
    return f"{uname.machine}-{uname.release}-{profile.st_mtime_ns:x}-{profile.st_size:x}-{program.st_mtime_ns:x}-{bits:x}"

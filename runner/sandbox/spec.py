"""The OCI runtime spec of a container as a pure function (opencontainers/runtime-spec config.md, config-linux.md)."""

from __future__ import annotations

import os

from runner.model import Step, Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_NESTED_DEVICES = ("/dev/fuse", "/dev/net/tun")
INIT_TARGET = "/.dockless-init"
SHM_SIZE = 64 * 1024**2

# Defaults of docker 28 (moby: oci/defaults.go)
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def build(
    *,
    root: str,
    namespaces: Mapping[str, str],
    step: Step,
    volumes: Sequence[Volume],
    seccomp: dict[str, Any],
    filter_program: str = "",
    capabilities: Sequence[str],
    init: str = "",
    rlimits: Sequence[tuple[str, int, int]] = (),
    read_only_root: bool = False,
    shm_size: int = SHM_SIZE,
    nested: bool = False,
) -> dict[str, Any]:
    """Return the spec, ready for json.dump.

    `namespaces` maps a type ("user", "network", "ipc", "uts") to the file that pins it, "" for a new one; mount, PID and cgroup
    namespaces are new.
    `init` is the host path of a static init that becomes PID 1, "" for none. `rlimits` are (name, soft, hard).
    `nested` opens /proc, /sys, cgroups and a few devices for a program that makes containers of its own: the kernel lets a user namespace
    mount a new /proc only where it sees a whole one, and what is open there is still the namespace's own.
    `filter_program` is the compiled form of `seccomp` in base64, where it is known.
    """
    mounts = [*_system_mounts(shm_size, "rw" if nested else "ro"), *(_bind(volume) for volume in volumes)]
    if nested:
        mounts += [
            _mount(path, "none", path, "bind", "rprivate", "nosuid", "noexec", "rw") for path in _NESTED_DEVICES if os.path.exists(path)
        ]
    if init:
        mounts.append(_bind(Volume(init, INIT_TARGET, read_only=True)))
    linux: dict[str, Any] = {
        "namespaces": [
            *({"type": kind, "path": path} if path else {"type": kind} for kind, path in namespaces.items()),
            *({"type": kind} for kind in ("mount", "pid", "cgroup")),
        ],
        "maskedPaths": [] if nested else list(_MASKED),
        "readonlyPaths": [] if nested else list(_READ_ONLY),
    }
    if not filter_program:
        linux["seccomp"] = seccomp
    return {
        "ociVersion": "1.0.0",  # the newest that crun 1.8.1 accepts
        "root": {"path": root, "readonly": read_only_root},
        "mounts": mounts,
        "process": _process(step, capabilities, rlimits, init=bool(init)),
        "linux": linux,
        # crun(1): base64 of a program that is loaded instead of compiling linux.seccomp
        "annotations": {"run.oci.seccomp_bpf_data": filter_program} if filter_program else {},
    }


def _process(step: Step, capabilities: Sequence[str], rlimits: Sequence[tuple[str, int, int]], *, init: bool) -> dict[str, Any]:
    # like docker: a user other than root keeps the bounding set, for setuid programs, and has nothing in effect;
    # inheritable and ambient stay empty (CVE-2022-24769)
    effective = list(capabilities) if step.user.uid == 0 else []
    return {
        "terminal": step.terminal,
        "user": {"uid": step.user.uid, "gid": step.user.gid, "additionalGids": list(step.user.groups), "umask": step.umask},
        "args": [*((INIT_TARGET, "--") if init else ()), *step.argv],
        "env": [f"{name}={value}" for name, value in step.env],
        "cwd": step.cwd,
        "capabilities": {"bounding": list(capabilities), "effective": effective, "permitted": effective, "inheritable": [], "ambient": []},
        "rlimits": [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in rlimits],
        "noNewPrivileges": False,
    }


def _system_mounts(shm_size: int, access: str) -> list[dict[str, Any]]:
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size}"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount("/sys/fs/cgroup", "cgroup2", "cgroup", "nosuid", "noexec", "nodev", access),
    ]


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _bind(volume: Volume) -> dict[str, Any]:
    access = ("ro",) if volume.read_only else ("rw",)
    return _mount(volume.target, "none", volume.source, "rbind", "rprivate", "nosuid", "nodev", *access)

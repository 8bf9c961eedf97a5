"""The OCI spec of a container, as a value."""

import json
from typing import Any

import pytest

from runner.model import Step, User, Volume
from runner.sandbox import capabilities, spec

STEP = Step(("sh", "-c", "id"), (("A", "1"), ("B", "x=y")), "/builds", User(0, 0))
NAMESPACES = {"user": "/ns/user", "network": "/ns/net", "ipc": "/ns/ipc", "uts": "/ns/uts"}
FILTER = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}


def build(step: Step = STEP, **changes: Any) -> dict[str, Any]:
    arguments = {
        "root": "/c/root",
        "namespaces": NAMESPACES,
        "step": step,
        "volumes": (),
        "seccomp": FILTER,
        "capabilities": capabilities.DEFAULT,
    }
    return spec.build(**{**arguments, **changes})


def mount_at(made: dict[str, Any], target: str) -> dict[str, Any]:
    (found,) = [mount for mount in made["mounts"] if mount["destination"] == target]
    assert isinstance(found, dict)
    return found


def test_the_spec_is_plain_json() -> None:
    made = build(volumes=(Volume("/a", "/b"),), init="/usr/bin/tini", rlimits=(("RLIMIT_NOFILE", 1, 2),))
    assert json.loads(json.dumps(made)) == made


def test_the_process_is_the_step() -> None:
    process = build(STEP._replace(user=User(1000, 1001, (5, 6)), umask=0o027, terminal=True))["process"]
    assert process["args"] == ["sh", "-c", "id"]
    assert process["env"] == ["A=1", "B=x=y"]
    assert process["cwd"] == "/builds"
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027}
    assert process["terminal"] is True


def test_root_has_what_docker_gives_it() -> None:
    granted = build()["process"]["capabilities"]
    assert set(granted["bounding"]) == set(granted["effective"]) == set(granted["permitted"]) == set(capabilities.DEFAULT)


def test_another_user_keeps_the_bounding_set_and_has_nothing_in_effect() -> None:
    granted = build(STEP._replace(user=User(1000, 0)))["process"]["capabilities"]
    assert set(granted["bounding"]) == set(capabilities.DEFAULT)
    assert granted["effective"] == granted["permitted"] == []


@pytest.mark.parametrize("uid", [0, 1000])
def test_nothing_is_inherited_by_programs(uid: int) -> None:
    granted = build(STEP._replace(user=User(uid, 0)))["process"]["capabilities"]
    assert granted["inheritable"] == granted["ambient"] == []


def test_pinned_namespaces_are_joined_and_the_rest_is_new() -> None:
    namespaces = {entry["type"]: entry.get("path") for entry in build()["linux"]["namespaces"]}
    assert namespaces == {**NAMESPACES, "mount": None, "pid": None, "cgroup": None}


def test_no_kind_of_namespace_is_shared_with_the_host() -> None:
    kinds = [entry["type"] for entry in build()["linux"]["namespaces"]]
    assert sorted(kinds) == ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"]


@pytest.mark.parametrize(
    "path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi", "/sys/devices/virtual/powercap"]
)
def test_what_tells_about_the_host_is_masked(path: str) -> None:
    assert path in build()["linux"]["maskedPaths"]


@pytest.mark.parametrize("path", ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"])
def test_what_would_change_the_kernel_is_read_only(path: str) -> None:
    assert path in build()["linux"]["readonlyPaths"]


def test_kernel_file_systems_come_before_volumes_in_the_order_of_their_places() -> None:
    targets = [mount["destination"] for mount in build(volumes=(Volume("/a", "/cache"),))["mounts"]]
    assert targets == ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/cache"]


@pytest.mark.parametrize("target", ["/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"])
def test_no_kernel_file_system_has_programs_that_gain_power(target: str) -> None:
    assert {"nosuid", "noexec"} <= set(mount_at(build(), target)["options"])


@pytest.mark.parametrize("target", ["/sys", "/sys/fs/cgroup"])
def test_the_kernels_settings_are_mounted_read_only(target: str) -> None:
    assert "ro" in mount_at(build(), target)["options"]


@pytest.mark.parametrize(("read_only", "access"), [(False, "rw"), (True, "ro")])
def test_a_volume_is_a_private_bind_without_devices_and_setuid_programs(read_only: bool, access: str) -> None:
    mount = mount_at(build(volumes=(Volume("/host/x", "/w", read_only),)), "/w")
    assert (mount["source"], mount["type"]) == ("/host/x", "none")
    assert set(mount["options"]) == {"rbind", "rprivate", "nosuid", "nodev", access}


def test_volumes_keep_their_order_so_that_one_may_lie_in_another() -> None:
    made = build(volumes=(Volume("/1", "/w"), Volume("/2", "/w/in")))
    assert [mount["source"] for mount in made["mounts"][-2:]] == ["/1", "/2"]


def test_an_init_is_shown_read_only_and_starts_the_step() -> None:
    made = build(init="/usr/bin/tini-static")
    assert made["process"]["args"] == [spec.INIT_TARGET, "--", "sh", "-c", "id"]
    assert "ro" in mount_at(made, spec.INIT_TARGET)["options"]
    assert mount_at(made, spec.INIT_TARGET)["source"] == "/usr/bin/tini-static"


def test_the_profile_is_given_once_as_rules_or_as_a_program() -> None:
    rules, program = build(), build(filter_program="AAAA")
    assert rules["linux"]["seccomp"] == FILTER
    assert rules["annotations"] == {}
    assert "seccomp" not in program["linux"]
    assert program["annotations"] == {"run.oci.seccomp_bpf_data": "AAAA"}


def test_limits_root_and_shared_memory_are_as_asked() -> None:
    made = build(rlimits=(("RLIMIT_NOFILE", 1024, 4096),), read_only_root=True, shm_size=1 << 20)
    assert made["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]
    assert made["root"] == {"path": "/c/root", "readonly": True}
    assert f"size={1 << 20}" in mount_at(made, "/dev/shm")["options"]


def test_one_spec_does_not_change_another() -> None:
    first = build()
    first["linux"]["maskedPaths"].clear()
    first["process"]["capabilities"]["bounding"].clear()
    assert build()["linux"]["maskedPaths"]
    assert build()["process"]["capabilities"]["bounding"]

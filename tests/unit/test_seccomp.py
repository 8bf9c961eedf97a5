"""The distribution's seccomp profile, resolved for a container."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors
from runner.kernel import files
from runner.sandbox import capabilities, closed_calls, seccomp


def resolve(*rules: dict[str, Any], held: tuple[str, ...] = (), machine: str = "x86_64", kernel: str = "6.1.0-18-amd64") -> list[str]:
    """Return the system calls of the rules that apply."""
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", **rule} for rule in rules]}
    resolved = seccomp.resolve(profile, capabilities=held, machine=machine, kernel=kernel)
    return [name for rule in resolved["syscalls"] for name in rule["names"]]


def test_a_rule_without_conditions_always_applies() -> None:
    assert resolve({"names": ["read", "write"]}, {"names": ["close"], "includes": {}, "excludes": None}) == ["read", "write", "close"]


def test_a_rule_may_need_all_of_its_capabilities() -> None:
    rule = {"names": ["x"], "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}
    assert resolve(rule, held=("CAP_SYS_ADMIN", "CAP_BPF", "CAP_KILL")) == ["x"]
    assert resolve(rule, held=("CAP_SYS_ADMIN",)) == []
    assert resolve(rule) == []


def test_a_rule_may_end_with_any_of_its_capabilities() -> None:
    rule = {"names": ["x"], "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}
    assert resolve(rule) == resolve(rule, held=("CAP_KILL",)) == ["x"]
    assert resolve(rule, held=("CAP_BPF",)) == []


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("ppc64le", "ppc64le"), ("s390x", "s390x"), ("riscv64", "riscv64")]
)
def test_a_rule_may_be_for_machines(machine: str, name: str) -> None:
    assert resolve({"names": ["x"], "includes": {"arches": [name]}}, machine=machine) == ["x"]
    assert resolve({"names": ["x"], "includes": {"arches": ["other"]}}, machine=machine) == []
    assert resolve({"names": ["x"], "excludes": {"arches": [name]}}, machine=machine) == []


@pytest.mark.parametrize(
    ("kernel", "applies"),
    [
        ("4.8.0", True),
        ("4.8", True),
        ("4.10.1-x", True),
        ("10.0", True),
        ("4.7.99", False),
        ("3.20", False),
        ("4.8-rc1", True),
        ("5.0+", True),
    ],
)
def test_a_rule_may_need_a_kernel(kernel: str, applies: bool) -> None:
    assert resolve({"names": ["ptrace"], "includes": {"minKernel": "4.8"}}, kernel=kernel) == (["ptrace"] if applies else [])


def test_a_rule_keeps_its_arguments_and_error_and_nothing_that_crun_does_not_know() -> None:
    rule = {
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
        "errnoRet": 0,
        "errno": "EINVAL",
        "comment": "x",
        "includes": {},
        "excludes": {},
    }
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS", "archMap": [], "syscalls": [rule]}
    assert seccomp.resolve(profile, capabilities=(), machine="x86_64", kernel="6.1") == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": rule["args"], "errnoRet": 0}],
    }


def test_a_profile_of_the_old_form_has_one_name_a_rule() -> None:
    assert resolve({"name": "read"}) == ["read"]


def actions(name: str, held: tuple[str, ...], closed: tuple[str, ...] = seccomp.CLOSED) -> list[str]:
    """Return what the distribution's profile does about a system call."""
    return [rule["action"] for rule in seccomp.load(held, closed=closed)["syscalls"] if name in rule["names"]]


@pytest.mark.parametrize(
    "name",
    [
        "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "request_key",
        "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "open_by_handle_at", "ioperm", "iopl", "swapon",
        "settimeofday", "clock_settime", "acct", "quotactl", "vm86", "lookup_dcookie", "nfsservctl", "a_call_that_nobody_has_heard_of",
    ],
)  # fmt: skip
def test_a_container_cannot_make_the_calls_that_holes_of_the_kernel_need(name: str) -> None:
    assert "SCMP_ACT_ALLOW" not in actions(name, capabilities.DEFAULT)
    assert seccomp.load(capabilities.DEFAULT)["defaultAction"] == "SCMP_ACT_ERRNO"


def test_a_capability_opens_the_calls_that_belong_to_it() -> None:
    held = (*capabilities.DEFAULT, "CAP_SYS_ADMIN")
    assert actions("fanotify_init", held) == actions("bpf", held, closed=()) == ["SCMP_ACT_ALLOW"]


@pytest.mark.parametrize("group", closed_calls.GROUPS)
def test_no_capability_opens_what_is_closed(group: str) -> None:
    for name in closed_calls.GROUPS[group]:
        rules = [rule for rule in seccomp.load(capabilities.ALL)["syscalls"] if name in rule["names"]]
        assert rules
        assert all(rule["action"] == "SCMP_ACT_ERRNO" or (name in ("clone", "unshare", "ioctl") and rule["args"]) for rule in rules)


@pytest.mark.parametrize("group", closed_calls.GROUPS)
def test_what_is_opened_is_what_the_distribution_says(group: str) -> None:
    others = tuple(name for name in seccomp.CLOSED if name != group)
    for name in closed_calls.GROUPS[group]:
        assert actions(name, capabilities.ALL, closed=others) == actions(name, capabilities.ALL, closed=())
    assert seccomp.load(capabilities.ALL, closed=()) == seccomp.resolve(
        files.read_json(seccomp.PROFILE), capabilities=capabilities.ALL, machine=os.uname().machine, kernel=os.uname().release
    )


def allowed(name: str, argument: int, index: int, machine: str = "x86_64") -> bool:
    """Tell what the rules about a call say about one argument; they agree."""
    rules = closed_calls.close({"syscalls": []}, seccomp.CLOSED, machine=machine)["syscalls"]
    found = {
        rule["action"]
        for rule in rules
        for compared in rule.get("args", [])
        if rule["names"] == [name] and compared["index"] == index and argument & compared["value"] == compared["valueTwo"]
    }
    assert len(found) == 1
    return found == {"SCMP_ACT_ALLOW"}


@given(st.integers(0, 2**64 - 1) | st.builds(lambda high, low: high << 32 | low, st.integers(0, 3), st.integers(0x5400, 0x5430)))
def test_a_terminal_is_not_typed_into_whatever_the_upper_half_of_the_number_is(request: int) -> None:
    assert allowed("ioctl", request, 1) is (request & 0xFFFFFFFF not in (0x5412, 0x541C))


@given(st.integers(0, 2**64 - 1), st.sampled_from(["x86_64", "s390x"]))
def test_threads_and_processes_are_made_and_namespaces_are_not(flags: int, machine: str) -> None:
    assert allowed("clone", flags, 1 if machine == "s390x" else 0, machine) is (flags & 0x7E020000 == 0)
    assert allowed("unshare", flags, 0, machine) is (flags & 0x7E020080 == 0)


@pytest.mark.parametrize("name", ["read", "execve", "clone", "ptrace", "chroot", "openat2", "statx", "setuid"])
def test_ordinary_programs_work(name: str) -> None:
    assert "SCMP_ACT_ALLOW" in actions(name, capabilities.DEFAULT)


def test_a_missing_profile_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(errors.InfraError, match="is missing") as caught:
        seccomp.load((), path=str(tmp_path / "gone.json"))
    assert "golang-github-containers-common" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", "null", "{}", '{"defaultAction": "x"}', '{"defaultAction": "x", "syscalls": [7]}',
        '{"defaultAction": "x", "syscalls": [{}]}',
        '{"defaultAction": "x", "syscalls": [{"names": ["x"], "action": "y", "includes": {"minKernel": "new"}}]}',
    ],
)  # fmt: skip
def test_a_damaged_profile_is_said_to_be_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "seccomp.json").write_text(text)
    with pytest.raises(errors.InfraError, match="cannot be read"):
        seccomp.load((), path=str(tmp_path / "seccomp.json"))


KEYS = st.sampled_from(["names", "action", "includes", "excludes", "caps", "arches", "minKernel", "syscalls", "defaultAction"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)


@given(st.dictionaries(KEYS, JSON))
def test_whatever_the_profile_is_it_is_resolved_or_damaged(tmp_path_factory: pytest.TempPathFactory, profile: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("profile") / "seccomp.json"
    path.write_text(json.dumps(profile))
    try:
        resolved = seccomp.load(("CAP_KILL",), path=str(path))
    except errors.InfraError as e:
        assert e.hint
        return
    assert isinstance(resolved["syscalls"], list)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "seccomp.json"
    path.write_text("{}")
    return path


def test_a_compiled_filter_is_named_after_the_capabilities_and_not_their_order(profile: Path) -> None:
    def name(*held: str) -> str:
        return seccomp.compiled_name(held, crun="/bin/sh", path=str(profile))

    assert name("CAP_KILL", "CAP_CHOWN") == name("CAP_CHOWN", "CAP_KILL")
    assert len({name(), name("CAP_KILL"), name("CAP_CHOWN"), name("CAP_KILL", "CAP_CHOWN")}) == 4


def test_filters_of_which_one_closes_more_have_different_names(profile: Path) -> None:
    names = [seccomp.compiled_name((), closed=closed, crun="/bin/sh", path=str(profile)) for closed in (seccomp.CLOSED, ("bpf",), ())]
    assert len(set(names)) == 3


def test_another_profile_or_another_crun_has_another_filter(profile: Path, tmp_path: Path) -> None:
    crun = tmp_path / "crun"
    crun.write_bytes(b"")
    first = seccomp.compiled_name((), crun=str(crun), path=str(profile))
    os.utime(crun, ns=(1, 1))
    second = seccomp.compiled_name((), crun=str(crun), path=str(profile))
    profile.write_text("{ }")
    os.utime(profile, ns=(1, 1))
    third = seccomp.compiled_name((), crun=str(crun), path=str(profile))
    assert len({first, second, third}) == 3


def test_a_filter_of_nothing_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(errors.InfraError, match="is missing"):
        seccomp.compiled_name((), crun="/bin/sh", path=str(tmp_path / "gone"))

"""Control groups: where they may be made, told from trees of plain files, and what is written and removed."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.job import limits, state
from runner.job.undo import Undo
from runner.kernel import cgroup
from runner.model import BuildUser, ContainerSpec, JobSpec
from tests.support.defences import attack, without

_CGROUP = "runner/kernel/cgroup.py"


class Machine:
    """A cgroup v2 hierarchy as plain files, delegated to us from ci.service on, with this process in ci.service/agent."""

    def __init__(self, root: Path) -> None:
        self.top = root / "cgroup"
        self.own = root / "own"
        self.mounts = root / "mountinfo"
        self.base = self.top / "system.slice/ci.service"
        (self.base / "agent").mkdir(parents=True)
        for group in (self.top, self.top / "system.slice", self.base, self.base / "agent"):
            (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
            (group / "cgroup.procs").write_text("")
            (group / "cgroup.subtree_control").write_text("")
        self.own.write_text("0::/system.slice/ci.service/agent\n")
        self.mount(self.top)

    def mount(self, top: Path) -> None:
        escaped = str(top).replace(" ", "\\040")
        self.mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n35 22 0:30 / {escaped} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")

    def delegated(self) -> cgroup.Delegation:
        return cgroup.delegated(own=str(self.own), mounts=str(self.mounts))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_jobs_are_siblings_of_the_group_that_we_are_in(machine: Machine) -> None:
    assert machine.delegated() == cgroup.Delegation(str(machine.base), "")


def test_the_hierarchy_may_be_mounted_anywhere(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a place with spaces")
    assert machine.delegated().directory == str(machine.base)


def test_lines_of_older_hierarchies_are_passed_over(machine: Machine) -> None:
    machine.own.write_text("4:memory:/user\n1:name=systemd:/x\n0::/system.slice/ci.service/agent\n")
    assert machine.delegated().directory == str(machine.base)


def test_names_that_are_no_text_do_not_matter(machine: Machine) -> None:
    machine.mounts.write_bytes(b"30 22 8:2 / /mnt/\xff\xfe rw - ext4 /dev/sdb rw\n" + machine.mounts.read_bytes())
    assert machine.delegated().directory == str(machine.base)
    machine.own.write_bytes(b"1:name=\xff:/\xff\n" + machine.own.read_bytes())
    assert machine.delegated().directory == str(machine.base)


@pytest.mark.parametrize("missing", cgroup.CONTROLLERS)
def test_every_controller_is_needed(machine: Machine, missing: str) -> None:
    there = [name for name in cgroup.CONTROLLERS if name != missing]
    (machine.base / "cgroup.controllers").write_text(" ".join(there))
    directory, reason = machine.delegated()
    assert directory == ""
    assert f"controllers {missing} are not available" in reason
    assert "/system.slice/ci.service is not delegated" in reason


@pytest.mark.parametrize("own", ["\n", "hugetlb misc\n"])  # what the second version has for itself there
def test_a_hybrid_machine_is_called_one(machine: Machine, own: str) -> None:
    for group in (machine.top, machine.base):
        (group / "cgroup.controllers").write_text(own)
    assert "cgroup v1 or a hybrid" in machine.delegated().reason


def test_a_machine_without_the_second_version_is_told_apart(machine: Machine) -> None:
    machine.own.write_text("4:memory:/user\n")
    assert "no cgroup v2" in machine.delegated().reason
    machine.own.write_text("0::/x\n")
    machine.mounts.write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    assert "no cgroup v2" in machine.delegated().reason


@pytest.mark.parametrize("name", ["", "cgroup.procs"])
def test_what_we_may_not_write_was_not_delegated(machine: Machine, name: str) -> None:
    (machine.base / name).chmod(0o555)
    directory, reason = machine.delegated()
    (machine.base / name).chmod(0o755)
    assert directory == ""
    assert "not delegated to this account" in reason


def test_a_group_with_processes_of_its_own_cannot_hand_controllers_on(machine: Machine) -> None:
    (machine.base / "cgroup.procs").write_text("4711\n")
    assert "has processes of its own" in machine.delegated().reason


def test_the_top_of_a_namespace_is_our_own_group(machine: Machine) -> None:
    machine.own.write_text("0::/\n")
    (machine.top / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert "/ has processes of its own" in machine.delegated().reason


@pytest.mark.parametrize("name", ["own", "mounts"])
def test_files_that_are_not_there_are_a_reason_and_no_error(machine: Machine, name: str) -> None:
    getattr(machine, name).unlink()
    assert machine.delegated() == cgroup.Delegation("", "No such file or directory")


def test_this_machine_gives_a_directory_or_a_reason() -> None:
    directory, reason = cgroup.delegated()
    assert bool(directory) != bool(reason)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_whatever_the_kernel_says_there_is_an_answer(tmp_path_factory: pytest.TempPathFactory, own: bytes, mounts: bytes) -> None:
    root = tmp_path_factory.mktemp("cgroup")
    (root / "own").write_bytes(b"0::" + own)
    (root / "mounts").write_bytes(b"1 1 0:1 / /x rw - cgroup2 c rw\n" + mounts + b" - cgroup2 ")
    assert cgroup.delegated(own=str(root / "own"), mounts=str(root / "mounts")).reason


def test_controllers_are_handed_on_by_the_group_and_the_one_above(machine: Machine) -> None:
    job = machine.base / "job"
    job.mkdir()
    (job / "cgroup.subtree_control").write_text("")
    (machine.base / "cgroup.subtree_control").write_text("memory")
    cgroup.make_inner(str(job))
    assert (machine.base / "cgroup.subtree_control").read_text() == "+cpu +pids"
    assert (job / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_what_is_handed_on_already_is_not_written_again(machine: Machine) -> None:
    job = machine.base / "job"
    job.mkdir()
    for group in (machine.base, job):
        (group / "cgroup.subtree_control").write_text("cpu memory pids io")
        (group / "cgroup.subtree_control").chmod(0o444)
    cgroup.make_inner(str(job))


def test_a_leaf_without_limits_is_an_empty_group(tmp_path: Path) -> None:
    cgroup.make_leaf(str(tmp_path / "leaf"), memory=0, cpus=0.0, pids=0)
    assert list((tmp_path / "leaf").iterdir()) == []


def test_a_leaf_is_always_new(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        cgroup.make_leaf(str(tmp_path), memory=0, cpus=0.0, pids=0)


@attack(
    26,
    without(_CGROUP, '("memory.max", str(memory)), ("memory.oom.group", "1"), ', '("memory.max", str(memory)), '),
    without(_CGROUP, ', ("memory.swap.max", "0")]', "]"),
)
def test_memory_has_no_way_out_into_swap_and_its_end_is_that_of_the_group() -> None:
    assert dict(cgroup.limits(memory=512 * 1024**2, cpus=0.0, pids=0)) == {
        "memory.max": "536870912",
        "memory.oom.group": "1",
        "memory.swap.max": "0",
    }


@pytest.mark.parametrize(
    ("cpus", "text"), [(1.0, "100000 100000"), (1.5, "150000 100000"), (64.0, "6400000 100000"), (0.001, "1000 100000")]
)
def test_cores_are_time_in_a_tenth_of_a_second_and_never_less_than_the_kernel_takes(cpus: float, text: str) -> None:
    assert cgroup.limits(memory=0, cpus=cpus, pids=0) == (("cpu.max", text),)


@attack(25, without(_CGROUP, 'found.append(("pids.max", str(pids)))', "pass"))
def test_processes_are_a_number() -> None:
    assert cgroup.limits(memory=0, cpus=0.0, pids=100) == (("pids.max", "100"),)


def test_no_limit_writes_nothing() -> None:
    assert cgroup.limits(memory=0, cpus=0.0, pids=0) == ()


def test_a_group_is_removed_with_its_leaves(tmp_path: Path) -> None:
    for name in ("build", "helper", "service-0"):
        (tmp_path / "job" / name).mkdir(parents=True)
    cgroup.remove(str(tmp_path / "job"))
    assert list(tmp_path.iterdir()) == []


def test_removing_what_is_gone_is_fine(tmp_path: Path) -> None:
    cgroup.remove(str(tmp_path / "gone"))
    cgroup.remove(str(tmp_path / "gone/below"))


def test_processes_are_killed_before_a_group_is_removed(tmp_path: Path) -> None:
    (tmp_path / "job/build").mkdir(parents=True)
    (tmp_path / "job/build/cgroup.kill").write_text("")
    with pytest.raises(OSError, match="not empty"):
        cgroup.remove(str(tmp_path / "job"))
    assert (tmp_path / "job/build/cgroup.kill").read_text() == "1"


def test_one_leaf_that_stays_does_not_keep_the_others(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"job/{number}").mkdir(parents=True)
    (tmp_path / "job/3/busy").write_text("")
    with pytest.raises(OSError, match="not empty"):
        cgroup.remove(str(tmp_path / "job"))
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["3"]


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "job/build").mkdir(parents=True)
    (tmp_path / "job/build/busy").write_text("")
    with pytest.raises(OSError, match="not empty"):
        cgroup.remove(str(tmp_path / "job"))
    cgroup.remove(str(tmp_path / "gone"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_job_removes_its_groups_also_where_they_have_no_path(tmp_path: Path) -> None:
    (tmp_path / "job/build").mkdir(parents=True)
    remover = limits.Remover(str(tmp_path / "job"))
    tmp_path.rename(tmp_path.with_name("moved"))
    remover.remove()
    remover.remove()
    assert list(tmp_path.with_name("moved").iterdir()) == []


def test_a_group_that_stays_is_only_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job/build").mkdir(parents=True)
    (tmp_path / "job/build/busy").write_text("")
    limits.remove(str(tmp_path / "job"))
    limits.Remover(str(tmp_path / "job")).remove()
    assert capsys.readouterr().err.count("stays: Directory not empty") == 2


def test_a_job_without_groups_has_nothing_to_remove(capsys: pytest.CaptureFixture[str]) -> None:
    limits.remove("")
    limits.Remover("").remove()
    assert capsys.readouterr().err == ""


def test_a_job_that_asks_for_no_limit_gets_no_group_and_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    job = state.JobState("k", BuildUser("u", 0, 1, 1), 0, None, state.NO_KEEPER, {}, {}, "", 0.0)
    with Undo() as undo:
        assert limits.apply(job, JobSpec("k", "u", (ContainerSpec("build", "toolbox"),)), undo) is job
    assert capsys.readouterr().err == ""

"""Limits of memory, processors and processes, where the kernel keeps them: the tests are a CI agent's service with a delegated cgroup."""

import signal
from pathlib import Path

import pytest

from runner import paths
from runner.job import state
from runner.kernel import cgroup
from tests.support.engine import Engine, sleeping, wait_until
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_jobs import GitLab, job, output, start_until, text_of

_TAKE_200_MB = "dd if=/dev/zero of=/dev/null bs=200M count=1"
_LOCK_200_MB = """python3 -c '
import ctypes, mmap
memory = mmap.mmap(-1, 200 * 1024**2)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
if ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(memory))) != 0:
    for page in range(0, len(memory), 4096):  # more than a user may lock: then by using it
        memory[page] = 1
'"""
_BOMB = """python3 -c '
import os, time
first = os.getpid()
while True:
    try:
        os.fork()
    except BlockingIOError:
        if os.getpid() == first:
            print("no more", flush=True)
        time.sleep(0.5)
'"""


def groups() -> list[str]:
    """Return the groups of jobs that there are."""
    return sorted(path.name for path in Path(cgroup.delegated().directory).glob("dockless-*"))


def group_of(gitlab: GitLab, attempt: Attempt, container: str = "build") -> Path:
    """Return the group of a container of a prepared job."""
    found = state.load(paths.Store(str(gitlab.engine.state)), attempt.job_env["DOCKLESS_JOB"])
    assert found is not None
    return Path(found.container(container).cgroup)


def number(file: Path, name: str) -> int:
    """Return the number behind a name in a group's file."""
    return int(dict(line.split() for line in file.read_text().splitlines())[name])


def test_too_much_memory_ends_the_container_and_is_named(engine: Engine) -> None:
    result = engine.run("run", "--memory", "64m", "--", "sh", "-c", f"{_TAKE_200_MB}; echo survived")
    assert (result.code, result.out) == (137, "")
    assert "ERROR: the memory limit was reached and a process of the container was killed (OOM)\n(--memory sets it)" in result.err
    assert groups() == []


def test_as_much_memory_as_allowed_ends_nothing(engine: Engine) -> None:
    result = engine.run("run", "--memory", "300m", "--", "sh", "-c", f"{_TAKE_200_MB}; echo survived")
    assert (result.code, result.out) == (0, "survived\n")
    assert "OOM" not in result.err
    assert "WARNING" not in result.err


def test_too_much_memory_of_a_job_is_named_in_its_log(gitlab: GitLab) -> None:
    gitlab.configure(limits={"memory": "64m"})
    result = gitlab.play(job([_TAKE_200_MB, "echo $((40 + 2)) survived"]))
    log = result.log.decode()
    assert (result.status, result.failure_reason, result.exit_code) == ("failed", "script_failure", 137), log
    assert "the memory limit was reached and a process of the job was killed (OOM)" in log
    assert "limits.memory in the configuration" in log
    assert "42 survived" not in log
    assert groups() == []


def test_job_beside_one_that_is_killed_for_memory_goes_on(gitlab: GitLab) -> None:
    gitlab.configure(limits={"memory": "64m"})
    with gitlab.prepared(job(project=1)) as hungry, gitlab.prepared(job(project=2)) as modest:
        call = start_until(modest, "waiting", "echo waiting; sleep 1000")
        assert hungry.stage("build_script", [_TAKE_200_MB]).failure is not None
        assert "(OOM)" in text_of(hungry)
        assert call.process.poll() is None
        assert number(group_of(gitlab, modest) / "memory.events", "oom_kill") == 0
    assert groups() == []


def test_job_gets_no_more_processor_time_than_its_share(gitlab: GitLab) -> None:
    gitlab.configure(limits={"cpus": 0.5})
    with gitlab.prepared(job()) as attempt:
        group = group_of(gitlab, attempt)
        assert (group / "cpu.max").read_text() == "50000 100000\n"
        before = number(group / "cpu.stat", "nr_throttled")
        output(attempt, "timeout 3 sh -c 'while :; do :; done' || true")
        assert number(group / "cpu.stat", "nr_throttled") > before
    assert groups() == []


def test_job_without_a_limit_is_never_throttled(gitlab: GitLab) -> None:
    gitlab.configure(limits={"pids": 1000})
    with gitlab.prepared(job()) as attempt:
        output(attempt, "timeout 3 sh -c 'while :; do :; done' || true")
        assert (group_of(gitlab, attempt) / "cpu.max").read_text() == "max 100000\n"
        assert number(group_of(gitlab, attempt) / "cpu.stat", "nr_throttled") == 0


def test_fork_bomb_stays_within_its_job(gitlab: GitLab) -> None:
    gitlab.configure(limits={"pids": 60})
    with gitlab.prepared(job(project=1)) as bomb, gitlab.prepared(job(project=2)) as other:
        start_until(bomb, "no more", _BOMB)
        group = group_of(gitlab, bomb)
        assert (group / "pids.max").read_text() == "60\n"
        assert int((group / "pids.current").read_text()) == 60
        assert number(group / "pids.events", "max") > 0
        assert output(other, "for i in 1 2 3 4 5; do sleep 0.1 & done; wait; echo done") == "done\n"
        assert number(group_of(gitlab, other) / "pids.events", "max") == 0
    assert groups() == []


def test_machine_has_room_again_after_a_fork_bomb_that_nobody_ends(gitlab: GitLab) -> None:
    gitlab.configure(limits={"pids": 60})
    with gitlab.prepared(job()) as attempt:
        call = start_until(attempt, "no more", f"setsid {_BOMB.strip()} &", _BOMB)
        call.signal_group(signal.SIGKILL)
        attempt.cleanup()
        assert call.ended(60)
    assert gitlab.engine.leftovers() == []
    assert groups() == []
    assert gitlab.engine.run("run", "--pids", "100", "--", "sh", "-c", "for i in 1 2 3; do true & done; wait; echo room").out == "room\n"


@pytest.mark.parametrize(
    "hog", [_LOCK_200_MB, "dd if=/dev/zero of=/dev/shm/fill bs=1M count=60", "tail /dev/zero"], ids=["mlock", "shm", "tail"]
)
def test_whatever_takes_the_memory_it_is_that_of_its_job(gitlab: GitLab, hog: str) -> None:
    gitlab.configure(limits={"memory": "48m"})
    with gitlab.prepared(job(project=1)) as hungry, gitlab.prepared(job(project=2)) as modest:
        call = start_until(modest, "waiting", "echo waiting; sleep 1000")
        ended = hungry.stage("build_script", [hog, "echo $((40 + 2)) survived"])
        assert ended.failure is not None
        assert "the memory limit was reached and a process of the job was killed (OOM)" in text_of(hungry)
        assert "42 survived" not in text_of(hungry)
        assert number(group_of(gitlab, hungry) / "memory.events", "oom_kill") > 0
        assert call.process.poll() is None
        assert number(group_of(gitlab, modest) / "memory.events", "oom_kill") == 0
        assert output(hungry, "echo next stage") == "next stage\n"
    assert groups() == []


_LEAVE = """
for file in pids.max memory.max memory.oom.group cgroup.max.descendants cgroup.max.depth cgroup.subtree_control cgroup.kill; do
    echo 1000000000 2>/dev/null > /sys/fs/cgroup/$file && echo "BROKEN: $file"
done
for group in /sys/fs/cgroup /sys/fs/cgroup/.. /sys/fs/cgroup/../..; do
    echo $$ 2>/dev/null > $group/cgroup.procs && test "$(cat /proc/self/cgroup)" != "$before" && echo "BROKEN: moved to $group"
done
mkdir /sys/fs/cgroup/evil 2>/dev/null && echo "BROKEN: mkdir"
mount -t cgroup2 none /mnt 2>/dev/null && echo "BROKEN: mount"
unshare --cgroup true 2>/dev/null && echo "BROKEN: unshare"
cat /proc/self/cgroup
"""


def test_job_neither_leaves_its_group_nor_raises_its_limits(gitlab: GitLab) -> None:
    gitlab.configure(limits={"pids": 100, "memory": "200m"})
    with gitlab.prepared(job()) as attempt:
        group = group_of(gitlab, attempt)
        files = ("pids.max", "memory.max", "memory.oom.group", "cgroup.max.descendants", "cgroup.max.depth", "cgroup.subtree_control")
        before = {name: (group / name).read_text() for name in files}
        call = start_until(attempt, "is out", "before=$(cat /proc/self/cgroup)", _LEAVE, "echo this is out; exec sleep 4713")
        shown = text_of(attempt)
        assert "BROKEN" not in shown
        assert "0::/\n" in shown
        assert {name: (group / name).read_text() for name in files} == before
        assert (before["pids.max"], before["memory.max"]) == ("100\n", f"{200 * 1024**2}\n")
        assert wait_until(lambda: sleeping("4713"), 60)
        assert {str(pid) for pid in sleeping("4713")} <= set((group / "cgroup.procs").read_text().split())
        call.signal_group(signal.SIGKILL)
    assert groups() == []


def test_services_have_limits_of_their_own(gitlab: GitLab) -> None:
    gitlab.configure(limits={"pids": 200}, service_limits={"memory": "100m", "cpus": 0.25, "pids": 50})
    service = {"name": "toolbox", "alias": "web", "command": ["sleep", "1000"]}
    with gitlab.prepared(job(services=[service])) as attempt:
        current = state.load(paths.Store(str(gitlab.engine.state)), attempt.job_env["DOCKLESS_JOB"])
        assert current is not None
        (group,) = (Path(container.cgroup) for container in current.containers.values() if container.is_service)
        limits = {name: (group / name).read_text().strip() for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max")}
        assert limits == {"memory.max": str(100 * 1024**2), "memory.swap.max": "0", "cpu.max": "25000 100000", "pids.max": "50"}
        assert (group / "cgroup.procs").read_text() != ""
        assert (group_of(gitlab, attempt) / "pids.max").read_text() == "200\n"
    assert groups() == []


def test_group_of_a_killed_caller_goes_with_the_next_job(engine: Engine) -> None:
    process = engine.start("run", "--pids", "100", "--", "sh", "-c", "echo ready; sleep 1000")
    assert process.stdout and process.stdout.readline() == "ready\n"
    (left,) = groups()
    process.kill()
    process.communicate()
    assert wait_until(lambda: "populated 0" in (Path(cgroup.delegated().directory) / left / "cgroup.events").read_text(), 60)
    assert engine.run("run", "--pids", "100", "--", "true").code == 0
    assert groups() == []


def test_doctor_is_content(engine: Engine) -> None:
    result = engine.run("doctor")
    lines = result.out.splitlines()
    assert (result.code, result.err) == (0, ""), result.out
    assert [line for line in lines if line.startswith("failed ")] == []
    assert [line.split()[:3] for line in lines if "control groups" in line] == [["ok", "control", "groups"]], result.out

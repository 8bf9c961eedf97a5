"""Two jobs of two projects beside each other: cases 30 and 31 of the threat model, from within a container and after a break-out.

A process that got out of its container has what the kernel gave it, the ids of its build user, and all of the host before it. So does a
process in a user namespace of the same ids that this test starts on the host.
"""

import ctypes
import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runner import paths
from runner.job import state
from runner.kernel import userns
from runner.model import BuildUser
from tests.support.defences import attack, without
from tests.support.engine import sleeping, wait_until
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_jobs import GitLab, job, output, start_until

_BUILD_USERS = "runner/sandbox/build_users.py"
_ONE_SLICE_FOR_ALL = without(
    _BUILD_USERS, "known[name] = free\n", "known[name] = 0\n",
    _BUILD_USERS, " and len(set(numbers)) == len(numbers)", "",
)  # fmt: skip
_PTRACE_ATTACH, _PTRACE_SEIZE = 16, 0x4206
# a process of a job that has something to hide in every place, for everybody in its own container
_VICTIM = """
umask 0
mkdir -p /cache/shared && echo secret > /cache/shared/file && echo secret > /tmp/file && chmod 777 /tmp/file /cache/shared
python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind("/tmp/socket")'
PASSWORD=secret exec sleep {mark} 3< /tmp/file
"""
_FROM_WITHIN = """python3 - <<'END'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for pid in {pids}:  # as the host numbers them
    for name, path in (("process", ""), ("memory", "/mem"), ("environment", "/environ"), ("root", "/root/tmp/file"), ("file", "/fd/3")):
        if os.path.exists(f"/proc/{{pid}}{{path}}"):
            print("BROKEN:", name)
    if libc.kill(pid, 0) == 0 or libc.ptrace({attach}, pid, 0, 0) == 0:
        print("BROKEN: signal or trace")
for pid in filter(str.isdigit, os.listdir("/proc")):
    if "{mark}" in open(f"/proc/{{pid}}/cmdline").read():
        print("BROKEN: it is number", pid)
for path in {paths}:
    if os.path.exists(path):
        print("BROKEN:", path)
for top, _, names in os.walk("/cache"):
    print(*("BROKEN: " + top + name for name in names))
END"""


@pytest.fixture
def mark() -> str:
    """Return how long the victim sleeps."""
    return str(random.randrange(10**8, 10**9))


@contextmanager
def _two_jobs(gitlab: GitLab, mark: str) -> Iterator[tuple[Attempt, int]]:
    """Yield the attacker's job, of one project, and the pid, as the host has it, of a process of a job of another one."""
    with gitlab.prepared(job(project=1)) as victim, gitlab.prepared(job(project=2)) as attacker:
        call = start_until(victim, "section", _VICTIM.format(mark=mark))
        assert wait_until(lambda: sleeping(mark))
        (pid,) = sleeping(mark)
        yield attacker, pid
        assert sleeping(mark) == [pid]
        assert not call.ended(0)


def _keepers(gitlab: GitLab) -> list[int]:
    return [found.keeper.pid for found, _ in state.every(paths.Store(str(gitlab.engine.state)))]


def _user_of(gitlab: GitLab, attempt: Attempt) -> BuildUser:
    found = state.load(paths.Store(str(gitlab.engine.state)), attempt.job_env["DOCKLESS_JOB"])
    assert found is not None
    return found.build_user


@attack(31, without("runner/sandbox/spec.py", 'for kind in ("mount", "pid", "cgroup")', 'for kind in ("mount", "cgroup")'), more=(30,))
def test_job_finds_nothing_of_another_one(gitlab: GitLab, mark: str) -> None:
    with _two_jobs(gitlab, mark) as (attacker, pid):
        seen = [str(gitlab.engine.state), str(gitlab.engine.config), f"/proc/{pid}/root", "/run/dockless", "/var/lib/dpkg"]
        pids = [pid, *_keepers(gitlab), os.getpid()]
        assert output(attacker, _FROM_WITHIN.format(pids=pids, paths=seen, attach=_PTRACE_ATTACH, mark=mark)).strip() == ""


def _said(function: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """Return the name of the errno with which an attempt failed, "" if it did not."""
    try:
        function(*arguments, **named)
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return ""


def _trace(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_SEIZE, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def _read_memory(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(8)
    vectors = (ctypes.c_size_t * 4)(ctypes.addressof(buffer), 8, ctypes.addressof(buffer), 8)
    second = ctypes.addressof(vectors) + 16
    if libc.process_vm_readv(pid, ctypes.byref(vectors), 1, ctypes.c_void_p(second), 1, 0) < 0 and ctypes.get_errno() != errno.EFAULT:
        raise OSError(ctypes.get_errno(), "process_vm_readv")


def _after_a_break_out(pid: int, others: dict[str, int], store: int) -> dict[str, str]:
    """Try on the host what ids alone allow; `others` are processes of ours by name, `store` is a descriptor of the state directory."""
    found = {}
    for name, each in {"victim": pid, **others}.items():
        found[f"{name}: signal"] = _said(os.kill, each, 0)
        found[f"{name}: trace"] = _said(_trace, each)
        found[f"{name}: memory"] = _said(_read_memory, each)
        for file in ("environ", "mem", "maps", "root/tmp/file", "root/cache/shared/file", "root/tmp/socket", "cwd/.", "fd/3", "ns/user"):
            found[f"{name}: {file}"] = _said(lambda path: os.close(os.open(path, os.O_RDONLY)), f"/proc/{each}/{file}")
        found[f"{name}: descriptors"] = _said(os.listdir, f"/proc/{each}/fd")
    for name in ("jobs", "build-users.json", "layers", "blobs", "format"):
        found[f"store: {name}"] = _said(os.stat, name, dir_fd=store)
    return found


@attack(
    31,
    _ONE_SLICE_FOR_ALL,
    without("runner/layout.py", "files.make_directory(store.root)\n", "files.make_directory(store.root, mode=0o755)\n"),
    more=(30,),
)
def test_process_that_broke_out_is_a_stranger_to_the_host_and_to_every_other_tenant(gitlab: GitLab, mark: str) -> None:
    with _two_jobs(gitlab, mark) as (attacker, pid):
        mine, store = _user_of(gitlab, attacker), os.open(gitlab.engine.state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        others = {"runner": os.getpid(), **{f"keeper {number}": keeper for number, keeper in enumerate(_keepers(gitlab))}}
        try:
            said = userns.call(mine.isolated_map(), lambda: _after_a_break_out(pid, others, store))
        finally:
            os.close(store)
        assert {attempt for attempt, word in said.items() if not word} == set()
        assert set(said.values()) <= {"EPERM", "EACCES"}, said
        # both are root of their containers, and nobody to each other
        assert os.stat(f"/proc/{pid}").st_uid not in range(mine.uid_start, mine.uid_start + 65536)

"""A sample of the matrix of faults, every kind of boundary once; all of it, which takes longer than tests may, is tests.faults.matrix."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import scenarios
from tests.faults.scenarios import SCENARIOS, Rig
from tests.support import boundaries
from tests.support.boundaries import KILL, Fault

# where a call is looked at that several commands make; one that is not here is looked at in all of them
_OWNER = {
    **dict.fromkeys(("connect", "fsync", "rename", "symlinkat", "mkdirat", "fchown", "kill", "clone3", "bind"), "pull"),
    **dict.fromkeys(("mkdir", "chmod", "fchmod", "pwrite64", "unshare", "sendto", "unlinkat", "setns"), "run"),
    **dict.fromkeys(("write", "wait4"), "prepare"),
    "clone": "stage",
    "pidfd_send_signal": "cleanup",
    "openat": "gc",
    "unlink": "gc",
}
_ERRORS = {
    "pull": (("ENOSPC", "write"), ("EIO", "fsync"), ("EIO", "rename"), ("ENOSPC", "mkdirat")),
    "run": (("EDQUOT", "mkdir"), ("EIO", "unlinkat"), ("ENOSPC", "pwrite64")),
    "prepare": (("ENOSPC", "openat"), ("EDQUOT", "write")),
    "stage": (("ENOSPC", "mkdir"),),
    "cleanup": (("EIO", "unlink"),),
    "gc": (("EDQUOT", "rename"),),
}


def sample(name: str, faults: list[Fault]) -> list[Fault]:
    """Choose a kill for every call that this scenario is to look at, and its errors, each in the middle of all that there could be."""
    calls = dict.fromkeys(fault.call for fault in faults if _OWNER.get(fault.call, name) == name)
    classes = [*((KILL, call) for call in calls), *_ERRORS[name]]
    found = [[fault for fault in faults if (fault.what, fault.call) == each] for each in classes]
    return [each[len(each) // 2] for each in found if each]


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with scenarios.registry() as registry:
        made = Rig(request.param, tmp_path, registry)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.timeout(900)  # many short commands, on machines that do other things as well
@pytest.mark.parametrize("rig", SCENARIOS, indirect=True)
def test_fault_at_any_boundary_leaves_nothing_and_the_next_one_works(rig: Rig) -> None:
    chosen = sample(rig.name, rig.faults)
    assert chosen
    tried = {str(fault): rig.try_(fault) for fault in chosen}
    assert {fault: wrong for fault, wrong in tried.items() if wrong} == {}
    assert sum(wrong is not None for wrong in tried.values()) >= len(chosen) - 2  # threads may share calls otherwise another time


# the tracer itself


def test_calls_are_counted_as_strace_counts_them(tmp_path: Path) -> None:
    tracer = boundaries.Tracer(tmp_path / "log")
    environ = {"PATH": "/usr/bin:/bin"}
    python = ["python3", "-c", "import os, sys\nfor name in 'abc': os.mkdir(sys.argv[1] + '/' + name)", str(tmp_path)]
    done = tracer.run(python, env=environ)
    assert done.code == 0, done
    mkdirs = [fault for fault in tracer.faults() if fault.call == "mkdir"]
    assert [str(fault) for fault in mkdirs if fault.what == KILL] == [f"KILL at mkdir {number}" for number in (1, 2, 3)]
    for name in "abc":
        (tmp_path / name).rmdir()
    assert tracer.run(python, env=environ, fault=Fault("ENOSPC", "mkdir", 2)).err.strip().endswith(f"device: '{tmp_path}/b'")
    assert tracer.happened(Fault("ENOSPC", "mkdir", 2))
    (tmp_path / "a").rmdir()
    assert tracer.run(python, env=environ, fault=Fault(KILL, "mkdir", 3)).code == -9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "log"]
    assert not tracer.happened(Fault("ENOSPC", "mkdir", 2))

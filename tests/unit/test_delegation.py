"""Handing a unit's control group over, on a tree of plain files."""

import os
from pathlib import Path

import pytest

from runner.errors import InfraError
from runner.kernel import accounts
from runner.setup import delegation


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    group = tmp_path / "system.slice/agent.service"
    (group / ".control").mkdir(parents=True)
    for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        (group / name).write_text("")
    return group


def own(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("place", ["/.control", "/agent", ""])
def test_unit_of_the_caller_is_found_from_any_of_its_groups(unit: Path, tmp_path: Path, place: str) -> None:
    found = own(tmp_path, f"0::/system.slice/agent.service{place}\n")
    assert delegation.hand_over(accounts.current(), own=found, top=str(tmp_path)) == str(unit)
    assert (unit / "agent").is_dir()
    assert os.stat(unit).st_uid == os.getuid()


@pytest.mark.parametrize("text", ["", "0::/\n", "0::/nowhere\n", "2:cpu:/system.slice/agent.service\n"])
def test_without_a_delegated_group_there_is_nothing_to_hand_over(unit: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(InfraError, match="no delegated cgroup"):
        delegation.hand_over(accounts.current(), own=own(tmp_path, text), top=str(tmp_path))
    assert not (unit / "agent").exists()

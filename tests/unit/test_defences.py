"""Every case of the threat model is attacked, and each defence that a test names is in the product to be taken out."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import prove
from tests.support.defences import Edit, attack, without
from tests.support.engine import TREE


def test_each_case_is_attacked_and_each_defence_is_in_its_file_once() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "tests.support.prove", "--check"], cwd=TREE, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout.strip()) == (0, ""), checked.stderr


def test_taking_out_changes_one_place(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("if safe():\n    go()\n")
    prove.take_out(tmp_path, without("a.py", "safe()", "True"))
    assert (tmp_path / "a.py").read_text() == "if True:\n    go()\n"
    with pytest.raises(ValueError, match="has 0 times: safe"):
        prove.take_out(tmp_path, (Edit("a.py", "safe()", "True"),))


@pytest.mark.parametrize("words", [(), ("a.py",), ("a.py", "x", "y", "b.py")])
def test_half_an_edit_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a defence is taken out by"):
        without(*words)


def test_case_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 54"):
        attack(55, without("a.py", "x", "y"))

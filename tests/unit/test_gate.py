"""The whole gate, so that a green pytest is a green tree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["ruff", "check", "--no-cache", "."], id="ruff-check"),
        pytest.param(["ruff", "format", "--no-cache", "--check", "."], id="ruff-format"),
        pytest.param(["mypy"], id="mypy"),
        pytest.param(["lint-imports", "--no-cache"], id="layers"),
    ],
)
def test_tree_passes(argv: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "mypy"), "PYTHONPATH": str(TREE)}
    done = subprocess.run([program(argv[0]), *argv[1:]], cwd=TREE, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "dev", ".ci/run", "tests/vm/agent.sh", "tests/vm/guest.sh", "tests/vm/pytest.sh",
        *(f"ci-templates/github/step/{name}.sh" for name in ("end", "find", "install", "step")),
    ],
)  # fmt: skip
def test_script_is_posix_shell(script: str) -> None:
    done = subprocess.run(["dash", "-n", str(TREE / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_file_has_one_idea() -> None:
    long = {str(path.relative_to(TREE)): lines for path in (TREE / "runner").rglob("*.py") if (lines := path.read_text().count("\n")) > 400}
    assert long == {}

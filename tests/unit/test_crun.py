"""What crun says, as the error whose reader can act."""

import json
from pathlib import Path

import pytest

from runner import errors
from runner.sandbox import crun


@pytest.mark.parametrize(
    ("message", "exit_code"),
    [
        ("executable file `nope` not found in $PATH: No such file or directory", 127),
        ("open executable: No such file or directory", 127),
        ("open executable: Permission denied", 126),
        ("exec container process `/bin/x`: Exec format error", 126),
    ],
)
def test_program_that_cannot_start_has_the_exit_code_of_docker(message: str, exit_code: int) -> None:
    error = crun.explain(message, ("nope",))
    assert isinstance(error, crun.StartFailure)
    assert error.exit_code == exit_code


def test_other_complaints_are_the_surroundings_fault() -> None:
    error = crun.explain("mount `proc` to `/proc`: Operation not permitted", ("true",))
    assert isinstance(error, errors.InfraError)
    assert "Operation not permitted" in error.message


def test_log_without_errors_means_that_it_started(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(json.dumps({"level": "warning", "msg": "executable file not found"}) + "\nnot json\n")
    assert crun.failure(str(tmp_path), ("x",)) is None


def test_missing_log_means_that_it_started(tmp_path: Path) -> None:
    assert crun.failure(str(tmp_path), ("x",)) is None

"""The stand-in for gitlab-runner's artifact commands does with a real coordinator what the helper's scripts ask for."""

import io
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import artifact_client
from tests.support.coordinator import Coordinator, Job

_DESCRIBED = ("--expire-in", "1 day", "--artifact-format", "zip", "--artifact-type", "archive", "--timeout", "1h0m0s")


class Helper:
    """A job's project directory, and the program that its scripts call there."""

    def __init__(self, program: str, project: Path, url: str, job: Job) -> None:
        self._program, self.project, self._url, self.job = program, project, url, job

    def call(self, command: str, *more: str, token: str = "") -> "subprocess.CompletedProcess[str]":
        argv = [self._program, command, "--url", self._url, "--token", token or self.job.token, "--id", str(self.job.id), *more]
        return subprocess.run(argv, cwd=self.project, capture_output=True, text=True, check=False, timeout=20)


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    coordinator = Coordinator()
    project = tmp_path / "project"
    (project / "out/deep").mkdir(parents=True)
    (project / "out/a").write_text("1")
    (project / "out/deep/b").write_text("2")
    (project / "report").write_text("3")
    program = artifact_client.install(str(tmp_path / "bin"))
    with coordinator.running() as url:
        yield Helper(program, project, url, coordinator.take({"id": 5, "token": "jobtok-5"}))


def test_version_is_answered_as_the_guard_of_the_scripts_asks(tmp_path: Path) -> None:
    program = artifact_client.install(str(tmp_path / "bin"))
    assert subprocess.run([program, "--version"], check=False, capture_output=True, timeout=20).returncode == 0


def test_files_and_directories_are_uploaded_under_their_names(helper: Helper) -> None:
    assert helper.call("artifacts-uploader", "--path", "out/", "--path", "report", *_DESCRIBED).returncode == 0
    (artifact,) = helper.job.artifacts
    assert artifact.query == {"artifact_format": "zip", "artifact_type": "archive", "expire_in": "1 day"}
    with zipfile.ZipFile(io.BytesIO(artifact.content)) as content:
        assert {name: content.read(name) for name in content.namelist()} == {"out/a": b"1", "out/deep/b": b"2", "report": b"3"}


def test_upload_of_nothing_fails_as_the_runners_does(helper: Helper) -> None:
    done = helper.call("artifacts-uploader", "--path", "missing", *_DESCRIBED)
    assert (done.returncode, helper.job.artifacts) == (1, [])
    assert "no matching files" in done.stderr


def test_refused_upload_fails(helper: Helper) -> None:
    done = helper.call("artifacts-uploader", "--path", "report", *_DESCRIBED, token="other")
    assert (done.returncode, helper.job.artifacts) == (1, [])
    assert "403" in done.stdout


def test_download_unpacks_what_was_uploaded(helper: Helper) -> None:
    assert helper.call("artifacts-uploader", "--path", "out", *_DESCRIBED).returncode == 0
    (helper.project / "out/a").unlink()
    assert helper.call("artifacts-downloader").returncode == 0
    assert (helper.project / "out/a").read_text() == "1"


def test_download_of_nothing_fails(helper: Helper) -> None:
    assert helper.call("artifacts-downloader").returncode == 1


def test_option_that_the_runner_has_and_this_has_not_is_refused(helper: Helper) -> None:
    assert helper.call("artifacts-uploader", "--path", "report", "--untracked").returncode == 2

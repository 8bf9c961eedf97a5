"""`gitlab config`: one JSON document that gitlab-runner understands, and a key that nobody can choose."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import __version__, errors, paths
from runner.adapters.gitlab import config, environment
from runner.kernel import accounts

KEYS = {"driver", "hostname", "builds_dir", "cache_dir", "builds_dir_is_shared", "job_env", "shell"}


class Runner:
    """gitlab-runner's call of config_exec."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = root / "config.yaml"
        self.state = root / "state"
        self._capsys = capsys

    def ask(self, more: str = "", **variables: str) -> dict[str, Any]:
        self.file.write_text(f"state_dir: {self.state}\n{more}")
        given_ = {f"CUSTOM_ENV_{name}": value for name, value in variables.items()}
        assert config.main([], {"DOCKLESS_CONFIG": str(self.file), "HOME": "/nowhere", **given_}) == 0
        answer: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return answer


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.chdir(tmp_path)  # the verb leaves the working directory
    return Runner(tmp_path, capsys)


def test_the_answer_is_what_the_runner_knows_and_nothing_else(runner: Runner) -> None:
    answer = runner.ask(CI_JOB_ID="4711")
    assert answer.keys() <= KEYS
    assert answer["driver"] == {"name": "dockless", "version": __version__}
    assert (answer["builds_dir"], answer["cache_dir"], answer["builds_dir_is_shared"]) == ("/builds", "/cache", False)
    assert "hostname" not in answer


def test_what_later_verbs_need_goes_through_the_runner_as_texts(runner: Runner) -> None:
    job_env = runner.ask(CI_JOB_ID="4711")["job_env"]
    assert job_env == {
        environment.JOB: job_env[environment.JOB],
        environment.STATE_DIR: str(runner.state),
        environment.ACCOUNT: accounts.current().name,
        environment.CALLER: job_env[environment.CALLER],
    }
    assert job_env[environment.JOB].startswith("gitlab-4711-")


def test_the_configuration_decides_directories_and_host_name(runner: Runner) -> None:
    answer = runner.ask("gitlab: {builds_dir: /b/, cache_dir: /c, hostname: ci-host}\n")
    assert (answer["builds_dir"], answer["cache_dir"], answer["hostname"]) == ("/b", "/c", "ci-host")


def test_builds_on_a_directory_of_the_host_are_told_apart_by_the_runner(runner: Runner) -> None:
    assert runner.ask('gitlab: {volumes: ["/srv/builds:/builds"]}\n')["builds_dir_is_shared"] is True


def test_variables_of_the_first_attempt_may_be_empty(runner: Runner) -> None:
    answer = runner.ask(CI_BUILDS_DIR="", CI_PROJECT_DIR="", RUNNER_TEMP_PROJECT_DIR=".tmp")
    assert answer["builds_dir"] == "/builds"


def test_every_attempt_is_another_job(runner: Runner) -> None:
    first, second = runner.ask(CI_JOB_ID="1"), runner.ask(CI_JOB_ID="1")
    assert first["job_env"][environment.JOB] != second["job_env"][environment.JOB]


def test_the_working_directory_that_only_the_runner_may_read_is_left(runner: Runner) -> None:
    runner.ask()
    assert os.getcwd() == "/"


def test_a_configuration_that_is_none_is_an_error_and_no_answer(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(errors.InfraError):
        runner.ask("gitlab: [")
    assert capsys.readouterr().out == ""


@given(st.text(max_size=30) | st.integers().map(str))
def test_a_key_is_a_safe_name_whatever_the_jobs_number_is(number: str) -> None:
    key = config.job_key({"CI_JOB_ID": number})
    assert paths.component(key) == key


@pytest.mark.parametrize("number", ["", "../../x", "-1", "1" * 20, "٣", "1\n"])
def test_a_number_that_is_none_is_not_in_the_key(number: str) -> None:
    assert config.job_key({"CI_JOB_ID": number}).startswith("gitlab-0-")

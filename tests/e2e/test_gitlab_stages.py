"""Stages of a GitLab job: which container each runs in, what of it stays for the next one, and which exit code the runner is told."""

import os
import signal

import pytest

from tests.support.gitlab_jobs import GitLab, job, output, start_until, text_of
from tests.support.gitlab_replay import Replay, when_logged

_HELPER_STAGES = (
    "prepare_script", "get_sources", "clear_worktree", "restore_cache", "download_artifacts", "archive_cache", "archive_cache_on_failure",
    "upload_artifacts_on_success", "upload_artifacts_on_failure", "cleanup_file_variables",
)  # fmt: skip
_BUILD_STAGES = ("build_script", "step_script", "after_script", "step_release", "step_anything", "stage_of_the_future")


# 1: where stages run


def test_known_stages_of_the_runner_are_the_helpers_and_all_others_the_builds(gitlab: GitLab) -> None:
    where = "test -e /only-in-build && echo build || echo helper"
    with gitlab.prepared() as attempt:
        output(attempt, "touch /only-in-build")
        found = {stage: output(attempt, where, stage=stage).strip() for stage in (*_HELPER_STAGES, *_BUILD_STAGES)}
    assert found == dict.fromkeys(_HELPER_STAGES, "helper") | dict.fromkeys(_BUILD_STAGES, "build")


def test_failed_sources_are_cleared_and_tried_again(gitlab: GitLab) -> None:
    hook = {"name": "pre_get_sources_script", "script": ["test -e /tmp/tried || { touch /tmp/tried; exit 4; }"]}
    result = gitlab.play(job("echo 'it' worked", hooks=[hook], variables={"GET_SOURCES_ATTEMPTS": "2"}))
    assert [phase for phase, _, _ in result.timeline][3:6] == ["get_sources", "clear_worktree", "get_sources"]
    assert result.status == "success"
    assert "it worked" in result.log.decode()


def test_helper_and_build_share_directories_and_nothing_else(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        output(attempt, "echo 1 > /builds/f; echo 1 > /cache/f; echo 1 > /tmp/f; echo 1 > /f", stage="get_sources")
        assert output(attempt, "ls /builds/f /cache/f /tmp/f /f 2>/dev/null || true").split() == ["/builds/f", "/cache/f"]


def test_release_step_runs_between_script_and_after_script(gitlab: GitLab) -> None:
    steps = [{"name": name, "script": [f"echo 'ran' {name}"], "when": "on_success"} for name in ("script", "release", "after_script")]
    log = gitlab.play(job(steps=steps)).log.decode()
    assert log.index("ran script\n") < log.index("ran release\n") < log.index("ran after_script\n")


# 2: exit codes


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 1", 1), ("exit 7", 7), ("exit 137", 137), ("exit 255", 255), ("sh -c 'kill -9 $$'", 137), ("no-such-program", 127)],
)
def test_exit_code_of_the_script_is_the_jobs(gitlab: GitLab, command: str, code: int) -> None:
    result = gitlab.play(job(command, after_script=["true"]))
    assert (result.status, result.failure_reason, result.exit_code) == ("failed", "script_failure", code)
    assert f"ERROR: Job failed: exit status {code}" in result.log.decode()


def test_passed_script_is_a_success(gitlab: GitLab) -> None:
    result = gitlab.play(job("true"))
    assert (result.status, result.exit_code, result.prepare_attempts) == ("success", 0, 1)


def test_code_of_an_earlier_stage_is_never_reported(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        first, second = attempt.stage("build_script", "exit 137"), attempt.stage("after_script", "exit 3")
        os.truncate(f"{attempt.temp_dir}/build_exit_code", 0)
        with open(f"{attempt.temp_dir}/build_exit_code", "w", encoding="ascii") as file:
            file.write("42\n")
        third = attempt.stage("after_script", "exit 5")
    assert [ended.failure and ended.failure.exit_code for ended in (first, second, third)] == [137, 3, 5]


def test_script_killed_with_all_of_its_processes_has_128_and_the_signal(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        ended = attempt.stage("build_script", "sh -c 'kill -9 -1'; exit $?")
    assert ended.failure is not None
    assert (ended.returncode, ended.failure.exit_code) == (1, 137)


def test_signal_that_ends_the_driver_is_a_system_failure(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "running", "echo running; sleep 2")
        os.kill(call.process.pid, signal.SIGKILL)
        ended = attempt.finish("build_script", call)
    assert ended.returncode == -signal.SIGKILL
    assert ended.failure is not None
    assert ended.failure.reason == "runner_system_failure"


# 3: prepare


def test_image_that_is_not_allowed_is_the_jobs_fault_and_not_tried_again(gitlab: GitLab) -> None:
    gitlab.configure(images={"allowed": ["good/*"]})
    result = gitlab.play(job(image="evil/image"))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert [code for phase, _, code in result.timeline if phase == "prepare"] == [1]


def test_image_that_does_not_exist_is_the_jobs_fault_and_not_tried_again(gitlab: GitLab) -> None:
    result = gitlab.play(job(image="oci:/no/such/layout"))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert "/no/such/layout" in result.log.decode()


def test_fault_of_the_machine_is_tried_three_times(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"runner_binary": "/no/such/gitlab-runner"})
    result = gitlab.play(job())
    assert (result.failure_reason, result.prepare_attempts) == ("runner_system_failure", 3)
    assert [code for phase, _, code in result.timeline if phase == "prepare"] == [2, 2, 2]
    assert "/no/such/gitlab-runner" in result.log.decode()


def test_configuration_that_cannot_be_read_is_the_systems_fault(gitlab: GitLab) -> None:
    gitlab.configure(gitlbb={})
    result = gitlab.play(job())
    assert [code for phase, _, code in result.timeline if phase == "config"] == [2, 2, 2]
    assert "did you mean gitlab?" in result.log.decode()


def test_cancelled_prepare_is_no_failure_of_the_script(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": 10})
    replays: list[Replay] = []
    service = {"name": "toolbox", "command": ["sleep", "60"], "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "1"}]}
    listener = when_logged("Waiting for services", lambda: replays[0].cancel())
    replays.append(gitlab.replay(job(services=[service]), log=listener))
    result = replays[0].run()
    assert (result.status, result.prepare_attempts) == ("canceled", 1)
    assert [code for phase, _, code in result.timeline if phase == "prepare"] == [143]
    assert gitlab.engine.leftovers() == []


# 16: what stays


def test_files_stay_until_the_job_ends_and_processes_do_not_outlive_their_stage(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        output(attempt, "echo kept > /etc/of-the-job; setsid sleep 4711 & exec sh -c 'sleep 0.1; echo parent ended'")
        shown = output(attempt, "cat /etc/of-the-job; ps -e -o args", stage="after_script")
    assert "kept" in shown
    assert "4711" not in shown


def test_background_process_does_not_hold_up_the_stage(gitlab: GitLab) -> None:
    result = gitlab.play(job(["sleep 4711 &", "echo 'at' the end"]))
    assert result.status == "success"
    assert "at the end" in result.log.decode()


def test_environment_file_and_file_variables_reach_after_script(gitlab: GitLab) -> None:
    variables = [{"key": "CONF", "value": "content of the file", "file": True}]
    payload = job(
        ["cat $CONF", 'echo "LATER=said" >> $GITLAB_ENV'], after_script=['echo "later: $LATER"', "cat $CONF"], variables=variables
    )
    result = gitlab.play(payload)
    assert result.log.decode().count("content of the file") == 2
    assert "later: said" in result.log.decode()


def test_job_log_is_told_which_image_is_used(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        assert "Using dockless executor with image toolbox ..." in text_of(attempt)

"""The replay of gitlab-runner calls a driver as the runner does: shown by a fake driver that writes down what it was given."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import wait_until
from tests.support.gitlab_calls import Call
from tests.support.gitlab_replay import JobResult, Replay, job_payload, when_logged

_DRIVER = """import json, os, signal, sys, time
phase = sys.argv[-1]
with open(os.environ["FAKE_LOG"], "a") as file:
    seen = {
        "phase": phase, "argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(), "stdin": os.readlink("/proc/self/fd/0"),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")), "leader": os.getpgid(0) == os.getpid(), "pid": os.getpid(),
        "session": os.getsid(0), "files": {name: oct(os.stat(name).st_mode) for name in os.listdir(".")},
        "script": open(sys.argv[-2]).read() if sys.argv[1] == "run" else "", "mode": oct(os.stat(sys.argv[-2]).st_mode & 0o777)
        if sys.argv[1] == "run" else "",
    }
    file.write(json.dumps(seen) + "\\n")
exec(json.loads(os.environ["FAKE_ACTIONS"]).get(phase, ""))
"""


class Fake:
    """A driver of a few lines, what it shall do in each phase, and what it saw."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "log"
        self.temp = directory / "tmp"
        self.temp.mkdir()
        self._program = directory / "driver.py"
        self._program.write_text(_DRIVER)

    def replay(self, actions: dict[str, str] | None = None, payload: dict[str, Any] | None = None, **settings: Any) -> Replay:
        argv = [sys.executable, "-IS", str(self._program)]
        env = {"PATH": os.environ["PATH"], "FAKE_LOG": str(self.log), "FAKE_ACTIONS": json.dumps(actions or {}), "TMPDIR": str(self.temp)}
        driver = {verb: [*argv, verb] for verb in ("config", "prepare", "run", "cleanup")}
        return Replay(driver, payload or job_payload(), env=env, **{"retry_interval_s": 0.0, "graceful_s": 10.0, **settings})

    def play(self, actions: dict[str, str] | None = None, payload: dict[str, Any] | None = None, **settings: Any) -> JobResult:
        return self.replay(actions, payload, **settings).run()

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def phases(self) -> list[str]:
        return [call["phase"] for call in self.calls()]

    def call(self, phase: str) -> dict[str, Any]:
        return next(call for call in self.calls() if call["phase"] == phase)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def _exit_with(code: int, content: str | None = None) -> str:
    write = f"open(os.environ['BUILD_EXIT_CODE_FILE'], 'w').write({content!r}); " if content is not None else ""
    return f"{write}sys.exit({code})"


# what a call is given


def test_stages_come_in_the_runners_order(fake: Fake) -> None:
    result = fake.play(payload=job_payload(after_script=["true"]))
    assert fake.phases() == [
        "config", "prepare", "prepare_script", "get_sources", "build_script", "after_script", "cleanup_file_variables", "cleanup",
    ]  # fmt: skip
    assert (result.status, result.prepare_attempts) == ("success", 1)


def test_caches_and_artifacts_have_stages_of_their_own(fake: Fake) -> None:
    fake.play(
        payload=job_payload(
            cache=[{"key": "k", "paths": ["a"], "policy": "pull-push", "when": "on_success"}],
            artifacts=[{"paths": ["b"], "when": "on_success"}],
            dependencies=[{"id": 9, "token": "t", "name": "prev", "artifacts_file": {"filename": "a.zip", "size": 1}}],
        )
    )
    assert fake.phases()[2:-2] == [
        "prepare_script", "get_sources", "restore_cache", "download_artifacts", "build_script", "archive_cache",
        "upload_artifacts_on_success",
    ]  # fmt: skip


def test_failed_script_has_the_failure_variants_of_later_stages(fake: Fake) -> None:
    payload = job_payload(
        cache=[{"key": "k", "paths": ["a"], "when": "always"}, {"key": "l", "paths": ["a"], "when": "on_success"}],
        artifacts=[{"paths": ["b"], "when": "on_failure"}],
    )
    fake.play({"build_script": _exit_with(1)}, payload)
    assert fake.phases()[-4:] == ["archive_cache_on_failure", "upload_artifacts_on_failure", "cleanup_file_variables", "cleanup"]


def test_run_is_given_an_executable_script_and_the_stage(fake: Fake) -> None:
    fake.play(payload=job_payload(script=["echo hi there"]))
    call = fake.call("build_script")
    assert call["argv"][0] == "run"
    assert call["argv"][1].startswith(f"{call['cwd']}/script")
    assert call["argv"][2] == "build_script"
    assert call["mode"] == "0o700"
    assert call["script"].startswith("#!/usr/bin/env bash\n")
    assert "echo hi there" in call["script"]


def test_every_call_runs_in_the_attempts_private_directory(fake: Fake) -> None:
    fake.play()
    directories = {call["cwd"] for call in fake.calls()}
    assert len(directories) == 1
    directory = directories.pop()
    assert directory.startswith(f"{fake.temp}/custom-executor")
    assert {call["env"]["TMPDIR"] for call in fake.calls()} == {directory}
    assert fake.call("config")["files"] == {"response.json": "0o100600"}


def test_temporary_directory_ends_with_the_attempt(fake: Fake) -> None:
    fake.play()
    assert list(fake.temp.iterdir()) == []


def test_call_leads_a_process_group_in_the_runners_session(fake: Fake) -> None:
    fake.play()
    assert all(call["leader"] for call in fake.calls())
    assert {call["session"] for call in fake.calls()} == {os.getsid(0)}


def test_call_has_no_input_and_no_descriptor_but_three(fake: Fake) -> None:
    fake.play()
    # 3 is the log that the fake writes, 4 the directory that it lists
    assert all(call["stdin"] == "/dev/null" and call["fds"] == [0, 1, 2, 3, 4] for call in fake.calls())


def test_environment_has_the_runners_own_then_the_announcements(fake: Fake) -> None:
    fake.play()
    env = fake.call("prepare")["env"]
    assert env["FAKE_LOG"] == str(fake.log)
    assert (env["BUILD_FAILURE_EXIT_CODE"], env["SYSTEM_FAILURE_EXIT_CODE"]) == ("1", "2")
    assert env["BUILD_EXIT_CODE_FILE"] == f"{env['TMPDIR']}/build_exit_code"
    assert env["JOB_RESPONSE_FILE"] == f"{env['TMPDIR']}/response.json"


def test_job_env_comes_behind_the_announcements_and_not_before_prepare(fake: Fake) -> None:
    answer = json.dumps({"job_env": {"OWN": "1", "SYSTEM_FAILURE_EXIT_CODE": "77", "CUSTOM_ENV_CI_JOB_ID": "lost"}})
    fake.play({"config": f"print({answer!r})"}, job_payload(id=5))
    assert "OWN" not in fake.call("config")["env"]
    env = fake.call("cleanup")["env"]
    assert (env["OWN"], env["SYSTEM_FAILURE_EXIT_CODE"], env["CUSTOM_ENV_CI_JOB_ID"]) == ("1", "77", "5")


def test_job_variables_win_over_the_runners_own_but_not_over_its_last_ones(fake: Fake) -> None:
    fake.play(payload=job_payload(variables={"CI_JOB_IMAGE": "mine", "CI_PROJECT_DIR": "/x", "RUNNER_TEMP_PROJECT_DIR": "/y"}))
    env = fake.call("prepare")["env"]
    assert (env["CUSTOM_ENV_CI_JOB_IMAGE"], env["CUSTOM_ENV_CI_PROJECT_DIR"]) == ("mine", "/x")
    assert env["CUSTOM_ENV_RUNNER_TEMP_PROJECT_DIR"] == "/builds/group/project.tmp"


def test_directories_are_unknown_to_the_first_config(fake: Fake) -> None:
    fake.play()
    env = fake.call("config")["env"]
    assert (env["CUSTOM_ENV_CI_BUILDS_DIR"], env["CUSTOM_ENV_CI_PROJECT_DIR"], env["CUSTOM_ENV_RUNNER_TEMP_PROJECT_DIR"]) == (
        "",
        "",
        ".tmp",
    )
    assert fake.call("prepare")["env"]["CUSTOM_ENV_CI_PROJECT_DIR"] == "/builds/group/project"


def test_values_are_expanded_once_and_raw_ones_not_at_all(fake: Fake) -> None:
    variables = [{"key": "A", "value": "a"}, {"key": "B", "value": "$A-${A}-$NONE"}, {"key": "C", "value": "$A", "raw": True}]
    fake.play(payload=job_payload(variables=[*variables, {"key": "F", "value": "text", "file": True}, {"key": "G", "value": "$F"}]))
    env = fake.call("prepare")["env"]
    assert (env["CUSTOM_ENV_B"], env["CUSTOM_ENV_C"]) == ("a-a-", "$A")
    assert (env["CUSTOM_ENV_F"], env["CUSTOM_ENV_G"]) == ("text", "/builds/group/project.tmp/F")


def test_services_are_listed_with_their_first_alias(fake: Fake) -> None:
    services = [{"name": "redis:7", "alias": "a b,c", "command": ["x"], "variables": [{"key": "K", "value": "$CI"}]}]
    fake.play(payload=job_payload(services=services))
    env = fake.call("prepare")["env"]
    listed = [{"name": "redis:7", "alias": "a", "entrypoint": None, "command": ["x"], "variables": {"K": "true"}}]
    assert json.loads(env["CUSTOM_ENV_CI_JOB_SERVICES"]) == listed


def test_status_of_the_job_is_known_from_after_script_on(fake: Fake) -> None:
    fake.play({"build_script": _exit_with(1)}, job_payload(after_script=["true"]))
    assert fake.call("build_script")["env"]["CUSTOM_ENV_CI_JOB_STATUS"] == "running"
    assert fake.call("after_script")["env"]["CUSTOM_ENV_CI_JOB_STATUS"] == "failed"


def test_response_file_has_image_names_expanded_and_is_gos_json(fake: Fake) -> None:
    payload = job_payload(image={"name": "img:$TAG"}, variables={"TAG": "1&2"})
    log = fake.play({"prepare": "print(open(os.environ['JOB_RESPONSE_FILE']).read())"}, payload).log.decode()
    assert r'"name":"img:1\u00262"' in log


# what config_exec answers


def test_answer_of_config_moves_directories_and_names_the_driver(fake: Fake) -> None:
    answer = json.dumps({"driver": {"name": "d", "version": "v9"}, "builds_dir": "/b", "builds_dir_is_shared": True, "hostname": "h"})
    result = fake.play({"config": f"print({answer!r})"}, concurrent=(4, 3))
    assert "Using Custom executor with driver d v9..." in result.log.decode()
    assert fake.call("prepare")["env"]["CUSTOM_ENV_CI_PROJECT_DIR"] == "/b/abcdefghi/3/group/project"
    assert " via h..." in fake.call("prepare_script")["script"]


@pytest.mark.parametrize("answer", ["no json", "[]", '{"builds_dir": 1}', '{"job_env": {"A": 1}}', '{"driver": "d"}', "{} {}"])
def test_answer_of_another_type_is_a_system_failure(fake: Fake, answer: str) -> None:
    result = fake.play({"config": f"print({answer!r})"})
    assert (result.failure_reason, result.prepare_attempts) == ("runner_system_failure", 3)
    assert "error while parsing JSON output" in result.log.decode()


def test_null_and_unknown_keys_of_an_answer_are_ignored(fake: Fake) -> None:
    assert fake.play({"config": """print('{"builds_dir": null, "new": [1]}')"""}).status == "success"


# what exit codes mean


@pytest.mark.parametrize(
    ("action", "reason", "code"),
    [
        (_exit_with(1), "script_failure", 1),
        (_exit_with(1, "7\n"), "script_failure", 7),
        (_exit_with(1, "137"), "script_failure", 137),
        (_exit_with(1, "7 \n"), "runner_system_failure", None),
        (_exit_with(1, ""), "runner_system_failure", None),
        (_exit_with(2, "7\n"), "runner_system_failure", None),
        (_exit_with(3), "runner_system_failure", None),
        ("os.kill(os.getpid(), 9)", "runner_system_failure", None),
    ],
)
def test_exit_code_and_its_file_tell_whose_fault_it_is(fake: Fake, action: str, reason: str, code: int | None) -> None:
    result = fake.play({"build_script": action})
    assert (result.status, result.failure_reason, result.exit_code) == ("failed", reason, code)


def test_code_file_is_never_cleared_by_the_runner(fake: Fake) -> None:
    payload = job_payload(variables={"AFTER_SCRIPT_IGNORE_ERRORS": "false"}, after_script=["false"])
    leave = "open(os.environ['BUILD_EXIT_CODE_FILE'], 'w').write('42')"
    assert fake.play({"build_script": leave, "after_script": _exit_with(1)}, payload).exit_code == 42


# retries


@pytest.mark.parametrize(("code", "attempts", "reason"), [(1, 1, "script_failure"), (2, 3, "runner_system_failure")])
def test_failed_prepare_is_retried_unless_it_is_the_jobs_fault(fake: Fake, code: int, attempts: int, reason: str) -> None:
    result = fake.play({"prepare": _exit_with(code)})
    assert fake.phases() == ["config", "prepare", "cleanup"] * attempts
    assert (result.prepare_attempts, result.failure_reason) == (attempts, reason)
    assert len({call["cwd"] for call in fake.calls()}) == attempts


def test_second_attempt_at_sources_clears_the_worktree_first(fake: Fake) -> None:
    fake.play({"get_sources": _exit_with(1)}, job_payload(variables={"GET_SOURCES_ATTEMPTS": "3"}))
    tried = ["get_sources", "clear_worktree", "get_sources", "get_sources"]
    assert fake.phases() == ["config", "prepare", "prepare_script", *tried, "cleanup_file_variables", "cleanup"]


def test_failed_prepare_script_ends_the_job_at_once(fake: Fake) -> None:
    result = fake.play({"prepare_script": _exit_with(1)})
    assert fake.phases()[-2:] == ["prepare_script", "cleanup"]
    assert "prepare environment: exit status 1" in result.log.decode()


def test_failed_cleanup_is_a_warning(fake: Fake) -> None:
    result = fake.play({"cleanup": "print('inside'); sys.exit(1)"})
    assert result.status == "success"
    assert "WARNING: Cleanup script failed: exit status 1" in result.log.decode()
    assert (b"inside" in result.log, b"inside" in result.runner_log) == (False, True)


# signals


_WAIT = "signal.signal(15, lambda *_: sys.exit(1)); print('ready', flush=True); time.sleep(60)"


def test_cancel_terminates_only_the_script(fake: Fake) -> None:
    replays: list[Replay] = []
    listener = when_logged("ready", lambda: replays[0].cancel())
    replays.append(fake.replay({"build_script": _WAIT}, job_payload(after_script=["true"]), log=listener))
    result = replays[0].run()
    assert (result.status, result.failure_reason) == ("canceled", "job_canceled")
    assert fake.phases()[-4:] == ["build_script", "after_script", "cleanup_file_variables", "cleanup"]
    assert fake.call("after_script")["env"]["CUSTOM_ENV_CI_JOB_STATUS"] == "canceled"


@pytest.mark.parametrize("phase", ["build_script", "get_sources"])
def test_abort_skips_all_stages_that_are_left(fake: Fake, phase: str) -> None:
    replays: list[Replay] = []
    listener = when_logged("ready", lambda: replays[0].abort())
    replays.append(fake.replay({phase: _WAIT}, job_payload(after_script=["true"]), log=listener))
    assert replays[0].run().status == "canceled"
    assert fake.phases()[-2:] == [phase, "cleanup"]


def test_timeout_of_the_job_skips_all_stages_that_are_left(fake: Fake) -> None:
    result = fake.play({"build_script": _WAIT}, job_payload(after_script=["true"], timeout=2))
    assert result.failure_reason == "job_execution_timeout"
    assert fake.phases()[-2:] == ["build_script", "cleanup"]


def test_timeout_of_the_script_leaves_the_rest_of_the_job(fake: Fake) -> None:
    result = fake.play({"build_script": _WAIT}, job_payload(after_script=["true"], variables={"RUNNER_SCRIPT_TIMEOUT": "1s"}))
    assert result.failure_reason == "job_execution_timeout"
    assert fake.phases()[-3:] == ["after_script", "cleanup_file_variables", "cleanup"]


def _has_living_members(group: int) -> bool:
    """Tell whether any process of a group still lives; a zombie that nobody reaped does not."""
    return subprocess.run(["pgrep", "--pgroup", str(group), "--runstates", "RSDT"], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_whole_group_is_killed_when_it_does_not_listen(fake: Fake) -> None:
    stubborn = "signal.signal(15, signal.SIG_IGN); os.fork(); print('ready', flush=True); time.sleep(60)"
    replays: list[Replay] = []
    listener = when_logged("ready", lambda: replays[0].abort())
    replays.append(fake.replay({"build_script": stubborn}, log=listener, graceful_s=0.2))
    replays[0].run()
    assert wait_until(lambda: not _has_living_members(fake.call("build_script")["pid"]))
    assert replays[0].build.timeline[-2][::2] == ("build_script", -signal.SIGKILL)


def test_child_that_keeps_the_pipe_open_holds_up_the_stage(fake: Fake, tmp_path: Path) -> None:
    release = tmp_path / "release"
    hold = f"""
if os.fork() == 0:
    while not os.path.exists({str(release)!r}):
        time.sleep(0.01)
    os._exit(0)
"""
    attempt = fake.replay({"build_script": hold}).attempt()
    assert attempt.prepare().failure is None
    call = attempt.start_stage("build_script")
    assert wait_until(lambda: call.process.poll() is not None)
    held = call.ended(0.2)
    release.touch()
    assert (held, call.ended(10)) == (False, True)
    assert attempt.finish("build_script", call).failure is None
    attempt.cleanup()


def test_missing_program_is_a_system_failure(fake: Fake) -> None:
    replay = fake.replay()
    replay.build.runner.driver["prepare"] = ["/no/such/driver"]  # type: ignore[index]  # a dict of this test's
    result = replay.run()
    assert (result.failure_reason, result.prepare_attempts) == ("runner_system_failure", 3)
    assert "failed to start command: /no/such/driver: No such file or directory" in result.log.decode()


def test_phases_can_be_played_one_by_one(fake: Fake) -> None:
    attempt = fake.replay({"build_script": _WAIT}).attempt()
    started = attempt.start_prepare()
    assert isinstance(started, Call)
    assert attempt.finish("prepare", started).returncode == 0
    assert attempt.stage("prepare_script").returncode == 0
    call = attempt.start_stage("build_script", "echo own body")
    assert wait_until(lambda: "build_script" in fake.phases())
    call.signal_group(signal.SIGTERM)
    ended = attempt.finish("build_script", call)
    assert ended.returncode in (1, -signal.SIGTERM)
    assert "echo own body" in fake.call("build_script")["script"]
    assert attempt.cleanup().returncode == 0

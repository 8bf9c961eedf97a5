"""How a GitLab job ends: cancelled, killed, cleaned up twice or not at all; whatever happens, nothing of it is left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import paths
from runner.job import state
from runner.kernel import locks
from tests.support.defences import attack, without
from tests.support.engine import TREE, Engine, processes_of, wait_until
from tests.support.gitlab_calls import Call
from tests.support.gitlab_jobs import GitLab, job, output, start_until, text_of
from tests.support.gitlab_replay import Replay, when_logged


def _keeper_of(engine: Engine) -> int:
    store = paths.Store(str(engine.state))
    found = [job_state for job_state, _ in state.every(store)]
    assert len(found) == 1
    return found[0].keeper.pid


def _cleanup(gitlab: GitLab, more: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    environment = {**gitlab.environment(), **more}
    return subprocess.run(gitlab.driver()["cleanup"], env=environment, capture_output=True, text=True, timeout=60, check=False)


# 4: SIGTERM


def test_cancelled_script_is_told_and_after_script_finds_its_environment(gitlab: GitLab) -> None:
    replays: list[Replay] = []
    child = """sh -c 'trap "echo child was told; exit 0" TERM; echo rea""dy; while :; do sleep 0.1; done'"""
    payload = job(["echo kept > /etc/of-the-job", child], after_script=["cat /etc/of-the-job; ps -e -o args"])
    replays.append(gitlab.replay(payload, log=when_logged("ready", lambda: replays[0].cancel())))
    result = replays[0].run()
    log = result.log.decode()
    assert (result.status, result.failure_reason) == ("canceled", "job_canceled")
    assert "child was told" in log
    assert "kept" in log.partition("Running after script...")[2]
    assert "while :" not in log.partition("Running after script...")[2].partition("ps -e -o args")[2].partition("\n")[2]
    assert {code for phase, _, code in result.timeline if phase == "after_script"} == {0}
    assert gitlab.engine.leftovers() == []


def test_every_process_of_a_cancelled_stage_is_told(gitlab: GitLab) -> None:
    listen = """sh -c 'trap "echo told $0; touch /tmp/$0; exit 0" TERM; echo up $0; while :; do sleep 0.1; done'"""
    wait = "until test -e /tmp/one -a -e /tmp/two; do sleep 0.1; done; exit 0"
    last = f"""sh -c 'trap "{wait}" TERM; echo up three; while :; do sleep 0.1; done'"""
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "up three", f"{listen} one & setsid {listen} two & {last}")
        assert wait_until(lambda: "up one" in text_of(attempt) and "up two" in text_of(attempt))
        call.signal_group(signal.SIGTERM)
        ended = attempt.finish("build_script", call)
        shown = text_of(attempt)
    assert ended.returncode == 1
    assert [f"told {name}\n" in shown for name in ("one", "two")] == [True, True]


def test_background_process_finishes_its_trap_although_the_script_goes_on(gitlab: GitLab) -> None:
    behind = """sh -c 'trap "sleep 1; echo background was told; exit 0" TERM; echo behind is up; while :; do sleep 0.1; done'"""
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "behind is up", f"{behind} & sleep 4711")
        call.signal_group(signal.SIGTERM)
        ended = attempt.finish("build_script", call)
        shown = text_of(attempt)
    assert ended.returncode == 1
    assert "background was told\n" in shown


def test_script_that_does_not_listen_is_killed_after_a_grace(gitlab: GitLab) -> None:
    deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "ready", deaf)
        call.signal_group(signal.SIGTERM)
        assert call.ended(30)
        assert attempt.finish("build_script", call).failure is not None
        assert output(attempt, "echo still here", stage="after_script") == "still here\n"


def test_timeout_of_the_job_leaves_nothing(gitlab: GitLab) -> None:
    result = gitlab.play(job("sleep 60", timeout=5, services=[{"name": "toolbox", "command": ["sleep", "60"]}]))
    assert (result.status, result.failure_reason) == ("failed", "job_execution_timeout")


def test_cleanup_that_is_asked_to_end_ends_the_job_first(gitlab: GitLab) -> None:
    store = paths.Store(str(gitlab.engine.state))
    with gitlab.prepared() as attempt:
        (key,) = state.keys(store)
        with locks.hold(store.job_lock(key)):  # it waits for whoever has this
            cleaning = subprocess.Popen(gitlab.driver()["cleanup"], env={**gitlab.environment(), **attempt.environment()})
            assert wait_until(lambda: _ignores(cleaning.pid, signal.SIGHUP))  # the last of them
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                cleaning.send_signal(number)
        assert cleaning.wait(60) == 0
        assert gitlab.engine.leftovers() == []


def _ignores(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) & 1 << (number - 1))


# 5: SIGKILL


@attack(29, without("runner/job/cleanup.py", "            keeper.kill(each)\n", "            pass\n"))
def test_cleanup_after_a_killed_driver_removes_everything(gitlab: GitLab) -> None:
    payload = job(services=[{"name": "toolbox", "command": ["sleep", "4712"]}])
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    with gitlab.prepared(payload) as attempt:
        call = start_until(attempt, "ready", "setsid sleep 4711 & echo ready; sleep 4711")
        call.signal_group(signal.SIGKILL)
        assert processes_of(gitlab.engine.state)
        attempt.cleanup()
        assert gitlab.engine.leftovers() == []
        assert call.ended(10)


def test_stage_after_a_killed_driver_ends_what_it_left(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "ready", "echo ready; echo kept > /etc/of-the-job; exec sleep 4711")
        call.signal_group(signal.SIGKILL)
        second = gitlab.replay(attempt.build.payload).attempt()
        second.temp_dir, second.job_env = attempt.temp_dir, attempt.job_env
        shown = output(second, "ps -e -o args; cat /etc/of-the-job", stage="after_script")
        assert call.ended(10)
    assert "4711" not in shown
    assert "kept" in shown


@pytest.mark.parametrize("mark", ["Using dockless executor", "Waiting for services"])
def test_killed_prepare_leaves_only_files_which_cleanup_removes(gitlab: GitLab, mark: str) -> None:
    service = {"name": "toolbox", "command": ["sleep", "4712"], "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "1"}]}
    attempt = gitlab.replay(job(services=[service])).attempt()
    call = attempt.start_prepare()
    assert isinstance(call, Call)
    assert wait_until(lambda: mark in text_of(attempt), 30)
    call.signal_group(signal.SIGKILL)
    assert attempt.finish("prepare", call).returncode == -signal.SIGKILL
    attempt.cleanup()
    assert gitlab.engine.leftovers() == []


# 6: clean-up without anything


def test_cleanup_without_directory_and_job_is_content(gitlab: GitLab) -> None:
    result = _cleanup(gitlab, {"TMPDIR": "", "JOB_RESPONSE_FILE": "", "BUILD_EXIT_CODE_FILE": ""})
    assert (result.returncode, result.stdout) == (0, "")


def test_cleanup_of_a_job_that_never_was_is_content(gitlab: GitLab) -> None:
    result = _cleanup(gitlab, {"TMPDIR": "", "JOB_RESPONSE_FILE": "", "DOCKLESS_JOB": "gitlab-1-00000000"})
    assert (result.returncode, result.stdout) == (0, "")


def test_cleanup_can_be_repeated(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        job_env = dict(attempt.job_env)
    assert _cleanup(gitlab, job_env).returncode == 0
    assert gitlab.engine.leftovers() == []


def test_cleanup_of_one_attempt_leaves_another_job_alone(gitlab: GitLab) -> None:
    with gitlab.prepared(job(project=7)) as staying:
        with gitlab.prepared(job(project=8)):
            pass
        assert output(staying, "echo still here") == "still here\n"


# 7: descriptors


def test_prepare_returns_while_services_run(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    services = [{"name": "toolbox", "alias": name, "command": ["sh", "-c", "echo out; echo err >&2; sleep 4712"]} for name in ("a", "b")]
    attempt = gitlab.replay(job(services=services)).attempt()
    call = attempt.start_prepare()
    assert isinstance(call, Call)
    assert call.ended(30)
    assert attempt.finish("prepare", call).returncode == 0
    assert processes_of(gitlab.engine.state)
    attempt.cleanup()


# a job whose keeper is gone, and a job that is there twice


def test_keeper_that_dies_under_a_running_step_is_a_system_failure(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "ready", "echo ready; sleep 60")
        os.kill(_keeper_of(gitlab.engine), signal.SIGKILL)
        ended = attempt.finish("build_script", call)
        shown = text_of(attempt)
    assert ended.returncode == 2
    assert "job environment is gone" in shown


def test_stage_without_a_keeper_is_a_system_failure(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        os.kill(_keeper_of(gitlab.engine), signal.SIGKILL)
        assert wait_until(lambda: not processes_of(gitlab.engine.state))
        ended = attempt.stage("build_script", "true")
        shown = text_of(attempt)
    assert ended.returncode == 2
    assert "job environment is gone" in shown


def test_second_start_of_a_running_job_is_refused(gitlab: GitLab) -> None:
    payload = job(id=4711)
    with gitlab.prepared(payload) as first:
        second = gitlab.replay(payload).attempt()
        ended = second.prepare()
        second.cleanup()
        assert ended.returncode == 2
        assert "job 4711 is already running on this machine" in text_of(second)
        assert output(first, "echo still here") == "still here\n"


def test_same_number_at_another_gitlab_is_another_job(gitlab: GitLab) -> None:
    elsewhere = {"repo_url": "https://gitlab-ci-token:t@other.invalid/group/project.git"}
    with gitlab.prepared(job(id=4711)), gitlab.prepared(job(id=4711, git_info=elsewhere)) as second:
        assert output(second, "echo here") == "here\n"


# 17: a runner that was killed


_RUNNER = """
import json, sys
from tests.support.gitlab_replay import Replay
given = json.load(sys.stdin)
def log(piece):
    sys.stdout.buffer.write(piece)
    sys.stdout.flush()
Replay(given["driver"], given["payload"], env=given["env"], log=log).run()
"""


def _start_runner(gitlab: GitLab, payload: dict[str, Any]) -> "subprocess.Popen[str]":
    """Play a job in a process of its own, and return once its script runs."""
    given = {"driver": gitlab.driver(), "payload": payload, "env": gitlab.environment()}
    environment = {**gitlab.environment(), "PYTHONPATH": str(TREE)}
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    assert runner.stdin and runner.stdout
    runner.stdin.write(json.dumps(given))
    runner.stdin.close()
    assert any("script is up" in line for line in runner.stdout)
    return runner


def _kill_runner(runner: "subprocess.Popen[str]") -> None:
    runner.kill()
    runner.wait()
    assert runner.stdout
    runner.stdout.close()


def test_next_job_ends_and_removes_those_of_a_killed_runner(gitlab: GitLab) -> None:
    service = {"name": "toolbox", "command": ["sleep", "4712"], "variables": []}
    runner = _start_runner(gitlab, job("echo 'script' is up; sleep 4711", services=[service]))
    _kill_runner(runner)
    assert gitlab.engine.jobs()
    assert processes_of(gitlab.engine.state)
    gitlab.play(job())


def test_job_of_a_killed_runner_can_be_started_again(gitlab: GitLab) -> None:
    _kill_runner(_start_runner(gitlab, job("echo 'script' is up; sleep 4711", id=4711)))
    assert gitlab.play(job("echo 'second' start", id=4711)).status == "success"


def test_next_job_leaves_those_of_a_runner_that_lives_alone(gitlab: GitLab) -> None:
    runner = _start_runner(gitlab, job("echo 'script' is up; sleep 4711"))
    before = processes_of(gitlab.engine.state)
    with gitlab.prepared():
        pass
    assert set(before) <= set(processes_of(gitlab.engine.state))
    _kill_runner(runner)
    gitlab.play(job())


def test_next_job_removes_what_a_dead_machine_left(gitlab: GitLab) -> None:
    attempt = gitlab.replay(job(services=[{"name": "toolbox", "command": ["sleep", "4712"]}])).attempt()
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    assert attempt.prepare().failure is None
    os.kill(_keeper_of(gitlab.engine), signal.SIGKILL)
    assert gitlab.engine.jobs()
    gitlab.play(job())

"""Scripts that end what they should not, that do not end, or that leave something running: cases 28, 29 and 40 of the threat model."""

import random
import signal

import pytest

from tests.support.defences import attack, without
from tests.support.engine import sleeping, wait_until
from tests.support.gitlab_jobs import GitLab, job, output, start_until

_PID_NAMESPACE = without("runner/sandbox/spec.py", 'for kind in ("mount", "pid", "cgroup")', 'for kind in ("mount", "cgroup")')
_KILL_THE_KEEPER = without("runner/job/cleanup.py", "            keeper.kill(each)\n", "            pass\n")
# every way to be nobody's child and deaf, with the job's output in hand and without
_STAY = """
trap "" TERM HUP INT QUIT
nohup sleep {mark} > /dev/null 2>&1 &
setsid sleep {mark} &
(setsid sh -c "sleep {mark} & sleep {mark} &" &)
sleep {mark} &
python3 -c '
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        os.execvp("sleep", ["sleep", "{mark}"])
    os._exit(0)
os.wait()
'
until test "$(pgrep -c -x sleep)" -ge 6; do sleep 0.05; done
"""
_STAYING = 6


@pytest.fixture
def mark() -> str:
    """Return how long everything of this test sleeps: by it processes are found."""
    return str(random.randrange(10**8, 10**9))


@attack(28, _PID_NAMESPACE)
def test_script_that_kills_all_it_can_ends_its_own_processes_only(gitlab: GitLab, mark: str) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    with gitlab.prepared(job(services=[{"name": "toolbox", "command": ["sleep", mark]}])) as attempt:
        assert wait_until(lambda: sleeping(mark))
        before = sleeping(mark)
        assert output(attempt, "kill -9 -1 || true", "kill -9 1", "echo alive").endswith("alive\n")
        assert attempt.stage("build_script", ["python3 -c 'import os; os.kill(-1, 9)'", "true"]).failure is not None
        assert sleeping(mark) == before
        assert "next stage" in output(attempt, "echo next stage")
    assert sleeping(mark) == []


@attack(28, _KILL_THE_KEEPER)
@pytest.mark.parametrize(
    ("end", "code"), [("python3 -c 'import os; os.kill(-1, 9)'", 137), ("kill -9 -1 || kill -9 1; sh -c 'kill -11 $$'", 139)]
)
def test_job_whose_processes_are_killed_ends_with_a_code_that_says_so(gitlab: GitLab, end: str, code: int) -> None:
    result = gitlab.play(job([end, "echo $((40 + 2)) and on"]))
    assert (result.status, result.failure_reason, result.exit_code) == ("failed", "script_failure", code), result.log.decode()
    assert "42 and on" not in result.log.decode()


@attack(29, _PID_NAMESPACE, more=(40,))
def test_whatever_a_script_leaves_running_ends_with_it(gitlab: GitLab, mark: str) -> None:
    with gitlab.prepared(job()) as attempt:
        # it returns at the end of the job's output, which some of them hold
        assert output(attempt, _STAY.format(mark=mark), "echo left").endswith("left\n")
        assert sleeping(mark) == []
        assert "next stage" in output(attempt, "echo next stage")


@attack(29, _KILL_THE_KEEPER)
def test_whatever_a_script_started_ends_with_the_cleanup_of_a_killed_stage(gitlab: GitLab, mark: str) -> None:
    with gitlab.prepared(job()) as attempt:
        call = start_until(attempt, "all are up", _STAY.format(mark=mark), "echo all are up; wait")
        assert len(sleeping(mark)) == _STAYING
        call.signal_group(signal.SIGKILL)
        attempt.cleanup()
        assert call.ended(30)
        assert sleeping(mark) == []
        assert gitlab.engine.leftovers() == []


@attack(40, _PID_NAMESPACE)
def test_container_of_its_own_ends_although_somebody_holds_its_output(gitlab: GitLab, mark: str) -> None:
    result = gitlab.engine.run("run", "--", "sh", "-c", _STAY.format(mark=mark) + "echo left")
    assert (result.code, result.out) == (0, "left\n")
    assert sleeping(mark) == []

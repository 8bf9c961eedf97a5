"""Jobs that lose their keeper or their network, and jobs that are started twice: what is told, and who goes on."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.job import state
from runner.kernel import process
from runner.paths import Store
from tests.support import faults
from tests.support.engine import Engine, wait_until
from tests.support.faults import CODES, SYSTEM
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_calls import Call
from tests.support.gitlab_jobs import GitLab, job, output, start_until, text_of
from tests.support.gitlab_replay import when_logged
from tests.support.images import build_image, busybox_layer
from tests.support.registries import Answer, LyingRegistry, Request


def keeper_of(engine: Engine) -> int:
    """Return the pid of the only job's keeper."""
    (found,) = [current for current, _ in state.every(Store(str(engine.state)))]
    return found.keeper.pid


def uplink_of(engine: Engine) -> int:
    """Return the pid of the only job's slirp4netns, which is a child of its keeper."""
    keeper = keeper_of(engine)
    (found,) = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _name_and_parent(pid) == ("slirp4netns", keeper)]
    return found


def _name_and_parent(pid: int) -> tuple[str, int]:
    try:
        name, _, fields = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return "", 0
    return name, int(fields.split()[1])


def kill(engine: Engine, find: Callable[[Engine], int]) -> None:
    """Kill a process of the only job, and wait for its end."""
    fd = os.pidfd_open(find(engine))
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    assert process.wait_pidfd(fd, 10.0)
    os.close(fd)


NO_KEEPER = "job environment is gone"
NO_UPLINK = "network of the job is gone: slirp4netns has ended"


# a keeper


def test_keeper_that_dies_under_a_job_is_a_system_failure_of_the_job(gitlab: GitLab) -> None:
    log = when_logged("rea" + "dy\n", lambda: kill(gitlab.engine, keeper_of))
    result = gitlab.play(job("echo 'ready'; sleep 60", after_script=["true"]), log=log)
    shown = result.log.decode()
    assert (result.status, result.failure_reason) == ("failed", "runner_system_failure")
    assert f"ERROR: {NO_KEEPER}: its keeper ended under this step\033[0;m\n(was the machine out of memory" in shown
    assert "Traceback" not in shown
    assert {phase: code for phase, _, code in result.timeline if phase in ("build_script", "after_script", "cleanup")} == {
        "build_script": 2, "after_script": 2, "cleanup": 0
    }  # fmt: skip


def test_keeper_that_dies_between_steps_leaves_a_job_that_can_be_started_again(gitlab: GitLab) -> None:
    first = gitlab.replay(job(id=4711)).attempt()
    assert first.prepare().failure is None
    output(first, "echo first > /etc/of-the-job")
    kill(gitlab.engine, keeper_of)
    assert first.stage("build_script", "true").returncode == CODES["gitlab"][SYSTEM]
    assert f"{NO_KEEPER}: its keeper" in text_of(first)
    with gitlab.prepared(job(id=4711)) as second:
        assert output(second, "ls /etc/of-the-job || true") == "ls: cannot access '/etc/of-the-job': No such file or directory\n"
        first.cleanup()
        assert output(second, "echo still here") == "still here\n"


def test_keeper_that_dies_under_a_container_is_told_and_leaves_nothing(gitlab: GitLab) -> None:
    program = gitlab.engine.start("run", "--", "sh", "-c", "echo ready; sleep 60")
    assert program.stdout and program.stdout.readline() == "ready\n"
    kill(gitlab.engine, keeper_of)
    _, told = program.communicate(timeout=30)
    assert program.returncode == CODES["run"][SYSTEM]
    assert f"ERROR: {NO_KEEPER}: its keeper ended under this step\n(was the machine out of memory" in told
    assert faults.is_explained(told)
    assert gitlab.engine.leftovers() == []


@pytest.mark.parametrize("delay_ms", [0, 3, 6, 10, 15, 25, 40])
def test_keeper_that_dies_while_a_container_starts_is_told_and_leaves_nothing(gitlab: GitLab, delay_ms: int) -> None:
    # in the moments between the end of making the job, whose files are a build user's, and the container's own first process
    program = gitlab.engine.start("run", "--", "sleep", "60")
    while not any(current.keeper.pid for current, _ in state.every(Store(str(gitlab.engine.state)))) and program.poll() is None:
        pass
    time.sleep(delay_ms / 1000)
    kill(gitlab.engine, keeper_of)
    _, told = program.communicate(timeout=30)
    assert program.returncode == CODES["run"][SYSTEM]
    assert faults.is_explained(told), told
    assert gitlab.engine.leftovers() == []


# slirp4netns


def test_network_that_ends_between_steps_is_a_system_failure_of_the_next(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        kill(gitlab.engine, uplink_of)
        ended = attempt.stage("build_script", "echo not 'reached'")
        assert attempt.cleanup().returncode == 0
    assert ended.returncode == CODES["gitlab"][SYSTEM]
    assert f"ERROR: {NO_UPLINK}\033[0;m\n(was the machine out of memory? run the job again)" in text_of(attempt)
    assert "not reached" not in text_of(attempt)
    assert faults.is_explained(text_of(attempt))


@pytest.mark.parametrize(("own", "code"), [(3, CODES["gitlab"][SYSTEM]), (0, 0)])
def test_network_that_ends_under_a_step_explains_its_failure(gitlab: GitLab, own: int, code: int) -> None:
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "ready\n", f"echo ready; until test -e /cache/go; do sleep 0.05; done; exit {own}")
        kill(gitlab.engine, uplink_of)
        for volume in gitlab.engine.state.glob("volumes/*/0/[!.]*"):
            (volume / "go").touch()
        assert attempt.finish("build_script", call).returncode == code
    assert (NO_UPLINK in text_of(attempt)) is (own != 0)


def test_network_that_ends_under_a_container_explains_its_failure(gitlab: GitLab, tmp_path: Path) -> None:
    wait = "echo ready; until test -e /w/go; do sleep 0.05; done; exit 3"
    program = gitlab.engine.start("run", "-v", f"{tmp_path}:/w", "--", "sh", "-c", wait)
    assert program.stdout and program.stdout.readline() == "ready\n"
    kill(gitlab.engine, uplink_of)
    (tmp_path / "go").touch()
    _, told = program.communicate(timeout=30)
    assert (program.returncode, faults.is_explained(told)) == (CODES["run"][SYSTEM], True)
    assert NO_UPLINK in told


# a job that is started twice


@pytest.fixture
def endless(gitlab: GitLab) -> Iterator[str]:
    """Serve an image whose layer never comes, and return its name."""
    image = build_image([busybox_layer()])
    registry = LyingRegistry()
    registry.add(image, "team/app")

    def stall(request: Request, answer: Answer) -> Answer | None:
        return answer._replace(delay_s=60.0) if image.layer_digests[0] in request.path else None

    registry.lie = stall
    with registry.running() as (host, _):
        gitlab.configure(registries={host: {"plain_http": True}})
        yield f"{host}/team/app"


def start(gitlab: GitLab, image: str) -> tuple[Attempt, Call]:
    """Start to prepare job 4711, and return once it is there for others to see."""
    attempt = gitlab.replay(job(id=4711, image=image)).attempt()
    call = attempt.start_prepare()
    assert isinstance(call, Call)
    assert wait_until(lambda: any(gitlab.engine.state.glob("jobs/*/state.json")))
    return attempt, call


def test_second_start_of_a_job_that_is_being_prepared_is_refused(gitlab: GitLab, endless: str) -> None:
    first, call = start(gitlab, endless)
    second = gitlab.replay(job(id=4711)).attempt()
    assert second.prepare().returncode == CODES["gitlab"][SYSTEM]
    assert second.cleanup().returncode == 0
    assert "ERROR: job 4711 is already running on this machine (as gitlab-4711-" in text_of(second)
    assert faults.is_explained(text_of(second))
    assert not call.ended(0)
    call.signal_group(signal.SIGKILL)
    assert call.ended(10)
    assert first.cleanup().returncode == 0
    assert gitlab.engine.leftovers() == []


def test_cancelled_prepare_does_not_wait_for_a_silent_registry(gitlab: GitLab, endless: str) -> None:
    first, call = start(gitlab, endless)
    assert wait_until(lambda: any(gitlab.engine.state.glob("blobs/sha256/*")))
    call.signal_group(signal.SIGTERM)
    assert call.ended(20)
    assert first.finish("prepare", call).returncode == 128 + signal.SIGTERM
    assert gitlab.engine.leftovers() == []
    first.cleanup()


def test_interrupted_pull_does_not_wait_for_a_silent_registry(gitlab: GitLab, endless: str) -> None:
    program = gitlab.engine.start("pull", endless)
    assert wait_until(lambda: any(gitlab.engine.state.glob("blobs/partial/*")))
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=20)
    assert program.returncode == 130


def test_job_whose_first_start_was_killed_starts_again(gitlab: GitLab, endless: str) -> None:
    first, call = start(gitlab, endless)
    call.signal_group(signal.SIGKILL)
    assert call.ended(10)
    with gitlab.prepared(job(id=4711)) as second:
        assert first.cleanup().returncode == 0
        assert output(second, "echo still here") == "still here\n"


def test_second_start_under_the_same_key_is_refused(gitlab: GitLab) -> None:
    with gitlab.prepared(job(id=4711)) as attempt:
        again = attempt.start_prepare()
        assert isinstance(again, Call)
        assert attempt.finish("prepare", again).returncode == CODES["gitlab"][SYSTEM]
        assert faults.is_explained(text_of(attempt))
        assert output(attempt, "echo still here") == "still here\n"


def test_same_number_in_another_project_is_another_job(gitlab: GitLab) -> None:
    with gitlab.prepared(job(id=4711, project=7)) as first, gitlab.prepared(job(id=4711, project=8)) as second:
        output(first, "echo first > /cache/whose; echo first > /etc/whose")
        assert output(second, "cat /cache/whose /etc/whose 2>/dev/null || echo none") == "none\n"
        second.cleanup()
        assert output(first, "cat /cache/whose /etc/whose") == "first\nfirst\n"


def test_number_that_is_used_again_after_cleanup_is_a_new_job_with_the_projects_caches(gitlab: GitLab) -> None:
    payload = job(id=4711)
    with gitlab.prepared(payload) as first:
        output(first, "echo first > /etc/of-the-job; echo first > /cache/kept")
    assert gitlab.engine.leftovers() == []
    with gitlab.prepared(payload) as second:
        assert output(second, "cat /etc/of-the-job 2>/dev/null || cat /cache/kept") == "first\n"

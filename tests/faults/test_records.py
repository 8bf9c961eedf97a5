"""Jobs whose record is lost or damaged: they can be ended all the same, and nothing of them stays."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.job import keeper
from tests.support.defences import attack, without
from tests.support.engine import Engine, processes_of, wait_until
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_jobs import GitLab, job, output, start_until, text_of

_SERVICE = {"name": "toolbox", "command": ["sh", "-c", "mkdir -m 700 /private; touch /private/file; sleep 4712"]}
# owned by several ids of the build user, closed to all others, in the container's own layer and in a volume
_WRITE = "mkdir -m 700 /etc/private; touch /etc/private/file; chown -R 5:5 /etc/private; mkdir -m 700 made; chown 1000:1000 made"

DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "empty": lambda path: path.write_text(""),
    "torn": lambda path: path.write_text(path.read_text()[:100]),
    "another thing": lambda path: path.write_text("[]"),
    "without a field": lambda path: path.write_text(path.read_text().replace('"keeper"', '"other"')),
    "of another version": lambda path: path.write_text(path.read_text().replace('"format":1', '"format":99')),
}


@contextmanager
def damaged(gitlab: GitLab, how: str) -> Iterator[Attempt]:
    """Yield a job with a service, of which containers have written files, and whose record was damaged then."""
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    with gitlab.prepared(job(services=[_SERVICE])) as attempt:
        output(attempt, _WRITE)
        DAMAGES[how](record(gitlab.engine))
        yield attempt


def record(engine: Engine) -> Path:
    """Return the file that is the record of the only job."""
    (found,) = engine.state.glob("jobs/*/state.json")
    return found


@pytest.mark.parametrize("how", DAMAGES)
def test_job_without_a_readable_record_is_ended_by_cleanup(gitlab: GitLab, how: str) -> None:
    with damaged(gitlab, how) as attempt:
        ended = attempt.cleanup()
        assert ended.returncode == 0, bytes(attempt.build.runner_log).decode()
        assert gitlab.engine.leftovers() == []


@attack(
    50,
    without(
        "runner/job/state.py",
        "    except (OSError, ValueError, RecursionError) as e:\n        raise _damaged(key, e) from e\n",
        "    except RecursionError as e:\n        raise _damaged(key, e) from e\n",
    ),
)
def test_stage_of_a_damaged_job_is_a_system_failure_that_names_the_way_out(gitlab: GitLab) -> None:
    with damaged(gitlab, "torn") as attempt:
        ended = attempt.stage("build_script", "true")
        shown = text_of(attempt)
    assert ended.returncode == 2
    assert "is damaged" in shown
    assert "dockless gc" in shown


@pytest.mark.parametrize("how", ["lost", "torn"])
def test_job_without_a_readable_record_is_ended_by_gc(gitlab: GitLab, how: str) -> None:
    with damaged(gitlab, how) as attempt:
        result = gitlab.engine.run("gc")
        assert (result.code, result.err) == (0, "")
        assert f"removed job {attempt.job_env['DOCKLESS_JOB']}" in result.out
        assert gitlab.engine.leftovers() == []


def test_job_without_a_readable_record_is_ended_by_the_next_one(gitlab: GitLab) -> None:
    with damaged(gitlab, "torn"):
        gitlab.play(job())


def test_running_step_of_a_damaged_job_ends_with_it(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "ready", "echo ready; sleep 4711")
        record(gitlab.engine).write_text("[]")
        attempt.cleanup()
        assert gitlab.engine.leftovers() == []
        assert attempt.finish("build_script", call).returncode == 2


def test_running_job_of_another_version_is_left_to_that_one(gitlab: GitLab) -> None:
    with damaged(gitlab, "of another version") as attempt:
        before = processes_of(gitlab.engine.state)
        assert "removed job" not in gitlab.engine.run("gc").out
        assert set(before) <= set(processes_of(gitlab.engine.state))
        path = record(gitlab.engine)
        path.write_text(path.read_text().replace('"format":99', '"format":1'))
        assert output(attempt, "echo still here") == "still here\n"


def test_dead_job_of_another_version_is_removed(gitlab: GitLab) -> None:
    with damaged(gitlab, "of another version") as attempt:
        assert wait_until(lambda: keeper.find(attempt.job_env["DOCKLESS_JOB"]))
        (found,) = keeper.find(attempt.job_env["DOCKLESS_JOB"])
        os.kill(found.pid, signal.SIGKILL)
        assert wait_until(lambda: not processes_of(gitlab.engine.state))
        assert "removed job" in gitlab.engine.run("gc").out
        assert gitlab.engine.leftovers() == []


def test_process_that_calls_itself_a_keeper_is_none(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        key = attempt.job_env["DOCKLESS_JOB"]
        # a keeper has its name a moment after it was let go
        assert wait_until(lambda: keeper.find(key))
        (own,) = keeper.find(key)
        # with the account's own id, as containers have it that share a directory with their caller
        lie = f"echo ready; exec -a 'dockless: keeper of {key}' sleep infinity"
        impostor = gitlab.engine.start("run", "-v", f"{gitlab.temporary}:/w", "--", "bash", "-c", lie)
        assert impostor.stdout and impostor.stdout.readline() == "ready\n"
        assert wait_until(lambda: any(is_called(pid, key) for pid in processes_of(gitlab.engine.state) if pid != own.pid))
        assert keeper.find(key) == [own]
        impostor.kill()
        impostor.communicate(timeout=30)
        assert own.is_alive()
    assert gitlab.engine.run("gc").code == 0


def is_called(pid: int, key: str) -> bool:
    """Tell whether a process shows a keeper's name, and belongs to the account as keepers do."""
    shown = Path(f"/proc/{pid}/cmdline").read_bytes()
    return shown.startswith(f"dockless: keeper of {key}".encode()) and Path(f"/proc/{pid}").stat().st_uid == os.getuid()

"""Jobs that fill the disk (case 27): what a job writes is bounded, wherever it writes it, and so is what it may take from all others."""

import os
import time
from pathlib import Path

import pytest
import yaml

from tests.support.defences import attack, without
from tests.support.engine import Engine, Result
from tests.support.gitlab_jobs import GitLab, job

_STEP = "runner/job/step.py"
_WATCH = "runner/job/disk_watch.py"
_UNWATCHED = without(_STEP, "time.monotonic() >= watch.next and watch.look()", "False")
_FILL = "head -c 64m /dev/zero > {} && echo filled; sleep 20; echo went on"


def _limit(engine: Engine, **limits: str) -> None:
    engine.config.write_text(yaml.safe_dump({"limits": limits}))


def _assert_ended(result: Result) -> None:
    assert "job uses more than 32 MiB of disk" in result.err, result
    assert "raise limits.disk" in result.err
    assert result.code == 125
    assert "went on" not in result.out


@attack(27, _UNWATCHED, without(_WATCH, "/upper", "/nowhere"))
@pytest.mark.parametrize("place", ["/tmp/f", "/f", "/var/log/f"])
def test_file_that_grows_in_a_containers_own_root_ends_the_job(engine: Engine, place: str) -> None:
    _limit(engine, disk="32m")
    _assert_ended(engine.run("run", "--network", "none", "--", "sh", "-c", _FILL.format(place)))
    assert engine.jobs() == []


@attack(27, without(_WATCH, 'volume[:1] == "m"', "False"))
def test_workspace_counts(engine: Engine, tmp_path: Path) -> None:
    _limit(engine, disk="32m")
    _assert_ended(engine.run("run", "--network", "none", "-v", f"{tmp_path}:/w", "--", "sh", "-c", _FILL.format("/w/f")))


def test_what_lay_in_the_workspace_before_does_not_count(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * 40 * 1024**2)
    _limit(engine, disk="32m")
    time.sleep(0.2)  # the kernel's stamps are of the last tick
    result = engine.run("run", "--network", "none", "-v", f"{tmp_path}:/w", "--", "sh", "-c", "sleep 3; echo went on")
    assert (result.code, result.out) == (0, "went on\n")


@attack(27, without(_WATCH, "info.st_nlink == 0 and", "False and"))
def test_file_without_a_name_counts(engine: Engine) -> None:
    _limit(engine, disk="32m")
    script = "exec 5>/tmp/f; rm /tmp/f; head -c 64m /dev/zero >&5; sleep 20; echo went on"
    _assert_ended(engine.run("run", "--network", "none", "--", "bash", "-c", script))


@attack(27, without(_WATCH, "max(info.st_blocks * 512, _INODE_BYTES) if", "info.st_blocks * 512 if"))
def test_files_without_content_count(engine: Engine) -> None:
    """Inodes run out as bytes do: 32 MiB are 8192 files."""
    _limit(engine, disk="32m")
    _assert_ended(engine.run("run", "--network", "none", "--", "sh", "-c", "cd /tmp; seq 9000 | xargs touch; sleep 20; echo went on"))


def test_job_below_its_limit_goes_on(engine: Engine) -> None:
    _limit(engine, disk="128m", disk_reserve="64k")
    result = engine.run("run", "--network", "none", "--", "sh", "-c", "head -c 64m /dev/zero > /tmp/f; sleep 3; echo went on")
    assert (result.code, result.out) == (0, "went on\n")


@attack(27, without(_WATCH, "if is_short and self._is_the_biggest():", "if False:"))
def test_job_that_wrote_most_ends_when_the_disk_is_nearly_full_and_no_other(engine: Engine) -> None:
    _limit(engine, disk_reserve="1000t")  # however much is free here
    small = engine.start("run", "--network", "none", "--", "sh", "-c", "head -c 2m /dev/zero > /tmp/f; read line; echo went on")
    result = engine.run("run", "--network", "none", "--", "sh", "-c", _FILL.format("/tmp/f"))
    assert "disk is full" in result.err
    assert "this job has written the most (64 MiB) and was ended" in result.err
    assert result.code == 125
    out, err = small.communicate("end\n")
    # once the bigger one has gone it may be its turn
    assert "went on" in out or "(2 MiB)" in err
    innocent = engine.run("run", "--network", "none", "--", "sh", "-c", "sleep 4; echo went on")
    assert (innocent.code, innocent.out) == (0, "went on\n")


@attack(27, _UNWATCHED)
def test_script_of_gitlab_fails_as_the_jobs_own_fault(gitlab: GitLab) -> None:
    gitlab.configure(limits={"disk": "32m"})
    result = gitlab.play(job([_FILL.format("/builds/f")]))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert "job uses more than 32 MiB of disk" in result.log.decode()
    assert b"\nwent on" not in result.log


@attack(27, without("runner/job/disk_alarm.py", "stop.kill(init_pid(", "str(("))
def test_service_that_fills_the_disk_ends_with_the_step(gitlab: GitLab) -> None:
    gitlab.configure(limits={"disk": "32m"}, gitlab={"wait_for_services_timeout": -1})
    fill = {"name": "toolbox", "alias": "db", "command": ["sh", "-c", "head -c 64m /dev/zero > /tmp/f; exec python3 -m http.server 80"]}
    with gitlab.prepared(job(services=[fill])) as attempt:
        ended = attempt.stage("build_script", ["sleep 20; echo went on"])
        assert ended.failure is not None
        assert b"job uses more than 32 MiB of disk" in attempt.build.log
        attempt.stage("after_script", ["curl -sS -m 5 http://db/ -o /dev/null && echo still there || echo gone"])
        assert b"gone\n" in attempt.build.log


@attack(27, without("runner/job/detached.py", "alarm.next is not None and alarm.look()", "False"))
def test_docker_exec_of_the_shim_is_watched_too(engine: Engine) -> None:
    _limit(engine, disk="32m")
    container = engine.run("jenkins", "docker", "--", "run", "-d", "-t", "--network", "none", "toolbox", "cat").out.strip()
    result = engine.run("jenkins", "docker", "--", "exec", container, "sh", "-c", _FILL.format("/tmp/f"))
    assert "job uses more than 32 MiB of disk" in result.err
    assert "went on" not in result.out
    assert result.code not in (0, 137)
    assert engine.run("jenkins", "docker", "--", "inspect", "-f", "{{.State.Running}}", container).out.strip() == "false"
    engine.run("jenkins", "docker", "--", "rm", "-f", container)
    assert os.listdir(engine.state / "jobs") == []

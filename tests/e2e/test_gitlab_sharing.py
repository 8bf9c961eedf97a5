"""Two GitLab jobs at once: those of one project share nothing while both run, those of two projects are strangers to each other."""

import os
import signal
from pathlib import Path
from typing import Any

from runner.kernel import accounts
from runner.sandbox import build_users
from tests.support.engine import Engine, processes_of, uids_of, wait_until
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_jobs import GitLab, job, output, start_until

_FETCH = {"GIT_STRATEGY": "fetch"}


def _protected(value: bool | None, **more: Any) -> dict[str, Any]:
    return job(git_info={"protected": value}, variables=_FETCH, **more)


# 15: one project


def test_two_jobs_of_one_project_have_volumes_of_their_own(gitlab: GitLab) -> None:
    with gitlab.prepared(job(variables=_FETCH)) as first, gitlab.prepared(job(variables=_FETCH)) as second:
        output(first, "echo first > /builds/f; echo first > /cache/f")
        assert output(second, "ls /builds/f /cache/f 2>/dev/null || echo nothing").strip() == "nothing"
        output(second, "echo second > /builds/f; echo second > /cache/f")
        assert output(first, "cat /builds/f /cache/f").split() == ["first", "first"]


def test_next_job_of_the_project_finds_what_the_last_one_left(gitlab: GitLab) -> None:
    with gitlab.prepared(job(variables=_FETCH)) as first:
        output(first, "echo kept > /builds/f; echo kept > /cache/f; echo kept > /elsewhere")
    with gitlab.prepared(job(variables=_FETCH)) as second:
        assert output(second, "cat /builds/f /cache/f; ls /elsewhere 2>/dev/null || true").split() == ["kept", "kept"]


def test_each_slot_keeps_its_own_volumes(gitlab: GitLab) -> None:
    with gitlab.prepared() as first, gitlab.prepared() as second:
        output(first, "echo one > /cache/f")
        output(second, "echo two > /cache/f")
    with gitlab.prepared() as first, gitlab.prepared() as second:
        assert (output(first, "cat /cache/f"), output(second, "cat /cache/f")) == ("one\n", "two\n")


def test_clone_starts_with_an_empty_builds_directory_and_the_same_cache(gitlab: GitLab) -> None:
    with gitlab.prepared(job(variables=_FETCH)) as first:
        output(first, "echo kept > /builds/f; echo kept > /cache/f")
    with gitlab.prepared(job(variables={"GIT_STRATEGY": "clone"})) as second:
        assert output(second, "ls /builds; cat /cache/f").split() == ["kept"]


def test_protected_jobs_have_caches_that_others_cannot_write_to(gitlab: GitLab) -> None:
    with gitlab.prepared(_protected(True)) as trusted:
        output(trusted, "echo trusted > /cache/f; echo trusted > /builds/f")
    with gitlab.prepared(_protected(False)) as other:
        assert output(other, "ls /cache /builds").split() == ["/builds:", "/cache:"]
        output(other, "echo poison > /cache/f; echo poison > /builds/f")
    with gitlab.prepared(_protected(True)) as trusted:
        assert output(trusted, "cat /cache/f /builds/f").split() == ["trusted", "trusted"]


def test_cache_key_asks_for_the_protected_volumes(gitlab: GitLab) -> None:
    with gitlab.prepared(_protected(True)) as trusted:
        output(trusted, "echo trusted > /cache/f")
    for_protected = [{"key": "main-protected", "paths": ["x"], "policy": "pull-push", "when": "on_success"}]
    with gitlab.prepared(_protected(False, cache=for_protected)) as asking:
        assert output(asking, "cat /cache/f") == "trusted\n"
    for_others = [{"key": "main-non_protected", "paths": ["x"], "policy": "pull-push", "when": "on_success"}]
    with gitlab.prepared(_protected(False, cache=for_others)) as other:
        assert output(other, "ls /cache") == ""


def test_jobs_of_one_project_have_no_way_to_each_others_processes(gitlab: GitLab) -> None:
    with gitlab.prepared() as first, gitlab.prepared() as second:
        call = start_until(first, "ready", "echo ready; exec sleep 4711")
        shown = output(second, "ps -e -o args; kill -9 -1 || true", stage="get_sources")
        assert "4711" not in shown
        assert not call.ended(0.1)
        call.signal_group(signal.SIGTERM)
        first.finish("build_script", call)


# two projects


def _containers_of(attempt: Attempt, engine: Engine) -> Path:
    return engine.state / "jobs" / attempt.job_env["DOCKLESS_JOB"] / "containers"


def _owner(path: Path) -> int:
    return path.stat().st_uid


def test_jobs_of_two_projects_run_as_different_users_of_the_host(gitlab: GitLab) -> None:
    slices = build_users.available(accounts.current())
    with gitlab.prepared(job(project=7)) as first, gitlab.prepared(job(project=8)) as second:
        calls = [start_until(attempt, "ready", "echo ready; exec sleep 4711") for attempt in (first, second)]
        assert uids_of(gitlab.engine.state) == {os.getuid(), slices[0][0], slices[1][0]}
        assert _owner(_containers_of(first, gitlab.engine) / "build/upper") == slices[0][0]
        assert _owner(_containers_of(second, gitlab.engine) / "build/upper") == slices[1][0]
        for attempt, call in zip((first, second), calls, strict=True):
            call.signal_group(signal.SIGTERM)
            attempt.finish("build_script", call)


def test_files_of_two_projects_belong_to_different_users_of_the_host(gitlab: GitLab) -> None:
    slices = build_users.available(accounts.current())
    with gitlab.prepared(job(project=7)) as first, gitlab.prepared(job(project=8)) as second:
        for attempt in (first, second):
            output(attempt, "echo secret > /cache/f; chmod 600 /cache/f; chown 1000:1000 /cache/f; echo secret > /srv/f")
        volumes = gitlab.engine.state / "volumes"
        assert sorted(_owner(path) for path in volumes.glob("*-project-*/0/cache-*/f")) == [slices[0][0] + 1000, slices[1][0] + 1000]
        assert _owner(_containers_of(first, gitlab.engine) / "build/upper/srv/f") == slices[0][0]
        assert _owner(_containers_of(second, gitlab.engine) / "build/upper/srv/f") == slices[1][0]


def test_job_of_another_project_sees_no_process_and_signals_none(gitlab: GitLab) -> None:
    with gitlab.prepared(job(project=7)) as first, gitlab.prepared(job(project=8)) as second:
        call = start_until(first, "ready", "echo ready; exec sleep 4711")
        host_pids = " ".join(str(pid) for pid in processes_of(gitlab.engine.state))
        shown = output(second, "ps -e -o args; ls -d /proc/[0-9]*")
        second.stage("build_script", f"kill -9 {host_pids}; kill -9 -1")
        assert "4711" not in shown
        assert shown.count("/proc/") <= 4
        assert not call.ended(0.1)
        call.signal_group(signal.SIGTERM)
        first.finish("build_script", call)


def test_job_of_another_project_finds_no_file(gitlab: GitLab) -> None:
    with gitlab.prepared(job(project=7)) as first, gitlab.prepared(job(project=8)) as second:
        output(first, "for place in /builds /cache /tmp /root /var/tmp /dev/shm; do echo secret > $place/of-project-7; done")
        assert output(second, "find / -name of-project-7 -not -path '/proc/*' 2>/dev/null || true") == ""
        assert output(second, f"ls {gitlab.engine.state} 2>&1 || echo refused").endswith("refused\n")


def test_job_of_another_project_cannot_be_connected_to(gitlab: GitLab) -> None:
    service = {"name": "toolbox", "alias": "db", "command": ["python3", "-m", "http.server", "80"]}
    # not whether something answers: these may be addresses of the host's own network
    probe = "for n in $(seq 1 6); do curl -s -m 1 http://10.99.0.$n/ | grep -q 'Directory listing for /' && echo reached $n; done; true"
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    with gitlab.prepared(job(project=7, services=[service])) as first, gitlab.prepared(job(project=8)) as second:
        output(first, "until curl -s -o /dev/null http://db/; do sleep 0.1; done")
        assert output(first, probe) == "reached 3\n"
        assert output(second, probe) == ""
        assert output(second, "getent hosts db || echo unknown") == "unknown\n"


def test_clean_up_of_one_project_does_not_touch_the_other(gitlab: GitLab) -> None:
    with gitlab.prepared(job(project=8)) as staying:
        output(staying, "echo kept > /cache/f")
        with gitlab.prepared(job(project=7)):
            pass
        assert wait_until(lambda: len(gitlab.engine.jobs()) == 2), gitlab.engine.jobs()
        assert output(staying, "cat /cache/f") == "kept\n"


def test_projects_of_one_namespace_may_share_a_user_but_never_a_cache(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"trust_domain": "namespace"})
    info = {"name": "t", "stage": "t", "project_name": "p", "root_namespace_id": 3}
    with gitlab.prepared(job(job_info={**info, "project_id": 7})) as first:
        output(first, "echo kept > /cache/f")
    with gitlab.prepared(job(job_info={**info, "project_id": 8})) as second:
        assert output(second, "ls /cache") == ""
        assert (gitlab.engine.state / "build-users.json").read_text().count("namespace-3") == 1

"""Services of a GitLab job: the names they have, what they know, when the job waits for them, and what the job log says of them."""

from typing import Any

import pytest

from tests.support.gitlab_jobs import GitLab, job, output, text_of

_WEB = ["python3", "-m", "http.server", "80"]
_PORT = {"key": "HEALTHCHECK_TCP_PORT", "value": "80"}


def _web(*alias: str, **more: Any) -> dict[str, Any]:
    """Return a service that answers http on port 80 under some names."""
    return {"name": "toolbox", "alias": " ".join(alias), "command": _WEB, "variables": [_PORT], **more}


# names


def test_service_is_reached_by_every_one_of_its_names(gitlab: GitLab) -> None:
    with gitlab.prepared(job(services=[_web("db", "cache,store")])) as attempt:
        fetch = "for name in toolbox db cache store; do curl -fsS http://$name/ >/dev/null && echo $name; done"
        assert output(attempt, fetch).split() == ["toolbox", "db", "cache", "store"]
        assert output(attempt, fetch, stage="get_sources").split() == ["toolbox", "db", "cache", "store"]


def test_first_service_to_claim_a_name_has_it(gitlab: GitLab) -> None:
    say = ["sh", "-c", "echo $WHO > /tmp/who; cd /tmp; exec python3 -m http.server 80"]
    services = [
        _web("db", command=say, variables=[_PORT, {"key": "WHO", "value": "first"}]),
        _web("db", "other", command=say, variables=[_PORT, {"key": "WHO", "value": "second"}]),
    ]
    with gitlab.prepared(job(services=services)) as attempt:
        assert output(attempt, "curl -fsS http://db/who http://other/who").split() == ["first", "second"]
        assert "Skipping alias 'db' for service 'toolbox'" in text_of(attempt)


def test_service_without_a_name_left_is_not_started(gitlab: GitLab) -> None:
    with gitlab.prepared(job(services=[_web("db"), _web("db")])) as attempt:
        assert "Service 'toolbox' is not started: all of its names are taken" in text_of(attempt)
        assert output(attempt, "grep -c 10.99.0. /etc/hosts").strip() == "2"


@pytest.mark.parametrize("alias", ["build", "localhost", "a_/_b", "-x"])
def test_name_that_no_service_may_have_is_skipped(gitlab: GitLab, alias: str) -> None:
    with gitlab.prepared(job(services=[_web(alias, "good")])) as attempt:
        assert f"Skipping alias {alias!r}" in text_of(attempt)
        assert output(attempt, "curl -fsS -o /dev/null http://good/ && grep good /etc/hosts").split() == ["10.99.0.3", "toolbox", "good"]


def test_services_see_each_other_and_the_job(gitlab: GitLab) -> None:
    ask = "until curl -fsS http://db/; do sleep 0.1; done; grep -w build /etc/hosts > /tmp/found; mv /tmp/found /builds/; exec sleep 60"
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    with gitlab.prepared(job(services=[_web("db"), {"name": "toolbox", "alias": "asker", "command": ["sh", "-c", ask]}])) as attempt:
        found = output(attempt, "until test -e /builds/found; do sleep 0.1; done; cat /builds/found")
    assert found.split()[0] == "10.99.0.2"


# waiting


def test_job_waits_until_a_slow_service_listens(gitlab: GitLab) -> None:
    slow = ["sh", "-c", "sleep 1; exec python3 -m http.server 80"]
    with gitlab.prepared(job(services=[_web("db", command=slow)])) as attempt:
        assert "WARNING" not in text_of(attempt)
        output(attempt, "curl -fsS http://db/")


def test_service_that_never_listens_is_a_warning_with_its_log(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": 1})
    service = {"name": "toolbox", "command": ["sh", "-c", "echo words of the service; sleep 60"], "variables": [_PORT]}
    result = gitlab.play(job("echo 'went' on", services=[service]))
    log = result.log.decode()
    assert result.status == "success"
    assert "Service toolbox probably didn't start properly" in log
    assert "did not accept a connection within 1 s" in log
    assert "words of the service" in log
    assert "went on" in log


def test_service_without_ports_is_a_warning(gitlab: GitLab) -> None:
    result = gitlab.play(job(services=[{"name": "toolbox", "command": ["sleep", "60"]}]))
    assert result.status == "success"
    assert "has no exposed ports" in result.log.decode()


def test_service_that_crashes_is_a_warning_only(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": 1})
    service = {"name": "toolbox", "command": ["sh", "-c", "echo last words; exit 3"], "variables": [_PORT]}
    result = gitlab.play(job(services=[service]))
    assert result.status == "success"
    assert "last words" in result.log.decode()


@pytest.mark.parametrize(
    ("command", "why"), [("no-such-program", "no-such-program: program not found in the container"), ("", "the command is empty")]
)
def test_service_that_cannot_be_started_fails_the_job(gitlab: GitLab, command: str, why: str) -> None:
    result = gitlab.play(job(services=[{"name": "toolbox", "command": [command]}]))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert f"service toolbox cannot be started: {why}" in result.log.decode()


# what the job log shows


def test_debugged_service_prints_into_the_job_log_behind_its_names(gitlab: GitLab) -> None:
    service = _web("db", command=["sh", "-c", "echo started; exec python3 -u -m http.server 80"])
    payload = job(["curl -fsS -o /dev/null http://db/asked-for || true"], services=[service], variables={"CI_DEBUG_SERVICES": "true"})
    log = gitlab.play(payload).log.decode()
    assert "\033[0;90m[service:toolbox-db]\033[0;m started\n" in log
    lines = [line for line in log.splitlines() if "[service:toolbox-db]" in line]
    assert len([line for line in lines if line.endswith("started")]) == 1
    assert len([line for line in lines if "GET /asked-for" in line]) == 1


def test_service_is_silent_without_debugging(gitlab: GitLab) -> None:
    log = gitlab.play(
        job("curl -fsS http://db/", services=[_web("db", command=["sh", "-c", "echo started; exec python3 -m http.server 80"])])
    ).log
    assert b"started" not in log


# what services know


def test_service_knows_public_variables_and_its_own_and_no_secret(gitlab: GitLab) -> None:
    variables = [
        {"key": "OPEN", "value": "open"},
        {"key": "SECRET", "value": "s3cret", "public": False, "masked": True},
    ]
    own = [_PORT, {"key": "OWN", "value": "own-$OPEN"}, {"key": "RAW", "value": "$OPEN", "raw": True}]
    tell = ["sh", "-c", "env > /tmp/env; cd /tmp; exec python3 -m http.server 80"]
    with gitlab.prepared(job(services=[_web("db", command=tell, variables=own)], variables=variables)) as attempt:
        lines = output(attempt, "curl -fsS http://db/env").splitlines()
    assert {"OPEN=open", "OWN=own-open", "RAW=$OPEN", "CI_PROJECT_ID=7"} <= set(lines)
    assert [line for line in lines if "s3cret" in line] == []


def test_services_variables_are_not_the_jobs(gitlab: GitLab) -> None:
    with gitlab.prepared(job(services=[_web("db", variables=[_PORT, {"key": "OWN", "value": "x"}])])) as attempt:
        assert output(attempt, "env | grep -c ^OWN= || true").strip() == "0"


def test_services_share_the_directories_of_the_job(gitlab: GitLab) -> None:
    serve = ["python3", "-m", "http.server", "80", "--directory", "/builds"]
    with gitlab.prepared(job(services=[_web("db", command=serve)])) as attempt:
        assert output(attempt, "echo shared > /builds/f; curl -fsS http://db/f") == "shared\n"


# a real one


def test_redis_keeps_what_the_script_gave_it_between_stages(gitlab: GitLab) -> None:
    redis = {
        "name": "toolbox",
        "alias": "redis",
        "command": ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""],
        "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "6379"}],
    }
    payload = job(["redis-cli -h redis set greeting hello"], after_script=["redis-cli -h redis get greeting"], services=[redis])
    result = gitlab.play(payload)
    log = result.log.decode()
    assert result.status == "success"
    assert "\nOK\n" in log
    assert "hello\n" in log.partition("Running after script...")[2]

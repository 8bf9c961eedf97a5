"""The surroundings of the driver's programs: temporary directories, XDG variables, and how much a job may say."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.support.gitlab_jobs import GitLab, job, output, text_of

_SERVICE = {
    "name": "toolbox",
    "alias": "db",
    "command": ["python3", "-m", "http.server", "80"],
    "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "80"}],
}


# 18: the runner's temporary directory and what a login would have set


def test_nothing_of_the_engine_lies_in_the_attempts_directory(gitlab: GitLab) -> None:
    with gitlab.prepared(job(services=[_SERVICE])) as attempt:
        assert os.listdir(attempt.temp_dir) == ["response.json"]
        output(attempt, "curl -fsS -o /dev/null http://db/")
        assert sorted(name.rstrip("0123456789") for name in os.listdir(attempt.temp_dir)) == ["build_exit_code", "response.json", "script"]


@pytest.mark.parametrize("runtime", [None, "", "/no/such/directory", "relative"])
def test_runtime_directory_of_a_login_is_not_needed(gitlab: GitLab, runtime: str | None) -> None:
    environment = {name: value for name, value in gitlab.environment().items() if not name.startswith("XDG_")}
    more = {} if runtime is None else {"XDG_RUNTIME_DIR": runtime}
    with gitlab.prepared(job(services=[_SERVICE]), env={**environment, **more}) as attempt:
        output(attempt, "curl -fsS -o /dev/null http://db/")


def test_home_and_data_directories_of_the_runner_are_not_needed(gitlab: GitLab) -> None:
    environment = {name: value for name, value in gitlab.environment().items() if name != "HOME"}
    with gitlab.prepared(env={**environment, "XDG_DATA_HOME": "/no/such/data", "XDG_CACHE_HOME": "/no/such/cache"}) as attempt:
        assert output(attempt, "echo fine") == "fine\n"


def test_temporary_directory_with_strange_names_is_fine(gitlab: GitLab, tmp_path: Path) -> None:
    strange = tmp_path / "with space, comma:colon"
    strange.mkdir()
    with gitlab.prepared(env={**gitlab.environment(), "TMPDIR": str(strange)}) as attempt:
        assert output(attempt, "echo fine") == "fine\n"


def test_job_variables_do_not_reach_the_driver_itself(gitlab: GitLab) -> None:
    names = ("LD_PRELOAD", "PYTHONPATH", "TMPDIR", "DOCKLESS_STATE", "DOCKLESS_CONFIG", "DOCKLESS_JOB", "DOCKLESS_ACCOUNT", "HOME")
    hostile = dict.fromkeys(names, "/no/such/place")
    with gitlab.prepared(job(variables=hostile)) as attempt:
        assert _without_loader(output(attempt, "true", stage="get_sources")) == []
        shown = output(attempt, 'echo "$TMPDIR $HOME $DOCKLESS_JOB"')
        assert _without_loader(shown) == ["/no/such/place /no/such/place /no/such/place"]


def _without_loader(text: str) -> list[str]:
    """Return the lines that are not the job's own loader's, which complains about LD_PRELOAD on a stream of its own."""
    return [line for line in text.splitlines() if not line.startswith("ERROR: ld.so:")]


def test_path_of_the_job_does_not_hide_the_tools_of_the_helper(gitlab: GitLab) -> None:
    with gitlab.prepared(job(variables={"PATH": "/own:/usr/bin:/bin"})) as attempt:
        assert output(attempt, 'echo "$PATH"') == "/own:/usr/bin:/bin\n"
        assert output(attempt, 'echo "$PATH"', stage="get_sources").startswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:")


# 20: sizes


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_script_of_a_mebibyte_runs_whole(gitlab: GitLab) -> None:
    lines = [f"echo line {number} {'x' * 100} >> /tmp/out" for number in range(10_000)]
    expected = "".join(f"line {number} {'x' * 100}\n" for number in range(10_000))
    assert sum(map(len, lines)) > 1024**2
    with gitlab.prepared() as attempt:
        shown = output(attempt, *lines, "sha256sum < /tmp/out", 'head -c 10 | wc -c; echo "the end"')
    assert shown.split() == [_sum(expected), "-", "0", "the", "end"]


def test_large_environment_reaches_the_job_whole(gitlab: GitLab) -> None:
    values = {f"V{number}": f"{number} " + "y" * 1000 for number in range(600)}
    payload = job(["env | grep ^V | sort | sha256sum"], variables=values, services=[_SERVICE])
    expected = "".join(sorted(f"{name}={value}\n" for name, value in values.items()))
    result = gitlab.play(payload)
    assert _sum(expected) in result.log.decode(), result.log[-3000:].decode()


def test_longest_variable_there_can_be_reaches_the_job_whole(gitlab: GitLab) -> None:
    value = "z" * (128 * 1024 - len("CUSTOM_ENV_LONG=") - 1)
    result = gitlab.play(job('printf %s "$LONG" | sha256sum', variables={"LONG": value}))
    assert _sum(value) in result.log.decode()


def test_values_reach_the_job_byte_for_byte(gitlab: GitLab) -> None:
    value = "quote ' double \" back \\ newline \n tab \t dollar $$ umlaut ä bell \a end "
    variables = [{"key": "ODD", "value": value, "raw": True}]
    result = gitlab.play(job('printf %s "$ODD" | sha256sum', variables=variables))
    assert _sum(value) in result.log.decode()


def test_output_is_passed_on_byte_for_byte(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        output(attempt, "head -c 5000000 /dev/zero | tr '\\0' 'q'; echo 'all' of it")
        assert "q" * 5_000_000 + "all of it\n" in text_of(attempt)

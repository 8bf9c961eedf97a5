"""The real gitlab-runner, from picking a job up to its verdict, with dockless as its custom executor and a GitLab of our own.

`./dev live` runs this, where gitlab-runner is on the PATH; everything else of that path is in tests/e2e, and always runs.
"""

import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from runner.adapters.gitlab import snippet
from tests.support import gitlab_jobs, gitlab_runner
from tests.support.coordinator import Coordinator, Job
from tests.support.engine import Engine, wait_until

JOB_S = 90


class Live:
    """A coordinator, and a runner with one entry: this working tree's dockless over the engine's store."""

    def __init__(self, engine: Engine, coordinator: Coordinator, url: str) -> None:
        self._engine, self.coordinator = engine, coordinator
        root = engine.home.parent
        assert gitlab_runner.BINARY, "there is no gitlab-runner on PATH"
        binary = gitlab_runner.BINARY
        settings = {"state_dir": str(engine.state), "gitlab": {"runner_binary": os.path.realpath(binary)}, **gitlab_runner.REACHABLE}
        engine.config.write_text(json.dumps(settings))
        program = gitlab_runner.install(root / "bin")
        printed = snippet.text(str(program), config=str(engine.config))
        self._config = root / "config.toml"
        self._config.write_text(gitlab_runner.config_toml(printed, url=url, token=coordinator.token))

    def offer(self, payload: dict[str, Any]) -> Job:
        """Queue a job, in the API's own form: what the replay has of JOB_RESPONSE_FILE's, the runner writes but need not read."""
        return self.coordinator.offer({key: value for key, value in payload.items() if key != "inputs"})

    def play(self, payload: dict[str, Any]) -> Job:
        """Have the runner take a job to its end, and return what GitLab knows of it then."""
        job = self.offer(payload)
        with self.runner() as process:
            process.wait(JOB_S)
        assert job.is_over(), f"{process.output}\n{job.log()}"
        return job

    def runner(self) -> AbstractContextManager[gitlab_runner.Process]:
        assert gitlab_runner.BINARY
        return gitlab_runner.running(gitlab_runner.BINARY, self._config, home=self._engine.home)


@pytest.fixture
def live(engine: Engine) -> Iterator[Live]:
    coordinator = Coordinator()
    # jobs upload their artifacts to it themselves
    with coordinator.running(address=gitlab_runner.outward_address()) as url:
        yield Live(engine, coordinator, url)


# The runner shows each command before it runs it, and may put a time before each line: scripts print what stands in no command.


def test_script_succeeds_under_the_real_runner(live: Live) -> None:
    job = live.play(gitlab_jobs.job('echo "hello from $(id -u) in $CI_PROJECT_DIR"'))
    assert (job.status, job.failure_reason, job.exit_code) == ("success", "", 0), job.log()
    assert "Using Custom executor with driver dockless" in job.log()
    assert "hello from 0 in /builds/group/project" in job.log()


def test_exit_code_of_the_script_arrives_at_gitlab(live: Live) -> None:
    job = live.play(gitlab_jobs.job(["echo $((6 * 7)) before", "exit 7", "echo $((6 * 7)) after"]))
    assert (job.status, job.failure_reason, job.exit_code) == ("failed", "script_failure", 7), job.log()
    assert "42 before" in job.log()
    assert "42 after" not in job.log()


def test_image_that_does_not_exist_fails_the_job_at_the_first_attempt(live: Live) -> None:
    job = live.play(gitlab_jobs.job("true", image="oci:/no/such/layout"))
    assert (job.status, job.failure_reason) == ("failed", "script_failure"), job.log()
    assert "Will be retried" not in job.log()


def test_service_answers_by_its_alias(live: Live) -> None:
    command = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
    service = {
        "name": "toolbox", "alias": "cache", "command": command, "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "6379"}],
    }  # fmt: skip
    job = live.play(gitlab_jobs.job(["redis-cli -h cache set k $((6 * 7))-times", "redis-cli -h cache get k"], services=[service]))
    assert job.status == "success", job.log()
    assert "42-times" in job.log()


def test_cancelled_script_still_gets_its_after_script(live: Live) -> None:
    # the runner learns of the cancel from the answer to a piece of log
    payload = gitlab_jobs.job(
        "touch kept; while :; do echo $((6 * 7)) ticks; sleep 0.5; done",
        after_script=["test -e kept && echo tidied up after $CI_JOB_STATUS"],
    )
    job = live.offer(payload)
    with live.runner() as process:
        assert wait_until(lambda: "42 ticks" in job.log(), JOB_S), f"{process.output}\n{job.log()}"
        live.coordinator.cancel(job)
        process.wait(JOB_S)
    assert job.status == "failed", job.log()
    assert "tidied up after canceled" in job.log()


def test_artifacts_go_from_one_job_to_the_next(live: Live) -> None:
    archive = {"paths": ["out/"], "when": "on_success", "artifact_type": "archive", "artifact_format": "zip", "expire_in": "1 day"}
    made = live.play(gitlab_jobs.job(["mkdir -p out", "echo made-before > out/result"], artifacts=[archive]))
    assert made.status == "success", made.log()
    assert [artifact.query["artifact_type"] for artifact in made.artifacts] == ["archive"], made.log()
    with zipfile.ZipFile(io.BytesIO(made.artifacts[0].content)) as content:
        assert content.read("out/result") == b"made-before\n"
    needed = {"id": made.id, "token": made.token, "name": "build", "artifacts_file": {"filename": "artifacts.zip", "size": 1}}
    taken = live.play(gitlab_jobs.job("cat out/result", dependencies=[needed]))
    assert taken.status == "success", taken.log()
    assert "made-before" in taken.log()

"""What drives the real gitlab-runner in tests/live, by itself: its configuration, its command line, its process."""

import tomllib
from pathlib import Path

import pytest

from runner.adapters.gitlab import snippet
from tests.support import gitlab_runner
from tests.support.coordinator import Coordinator
from tests.support.engine import Engine, wait_until

needs_binary = pytest.mark.skipif(gitlab_runner.BINARY is None, reason="there is no gitlab-runner on PATH")

JOB_S = 90


class Live:
    """A coordinator, and a runner with one entry: this working tree's dockless over the engine's store."""

    def __init__(self, engine: Engine, coordinator: Coordinator, url: str) -> None:
        self._engine, self.coordinator = engine, coordinator
        root = engine.home.parent
        binary = gitlab_runner.BINARY or ""
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


@needs_binary
def test_script_succeeds_under_the_real_runner(live: Live) -> None:
    job = live.play(gitlab_jobs.job('echo "hello from $(id -u) in $CI_PROJECT_DIR"'))
    assert (job.status, job.failure_reason, job.exit_code) == ("success", "", 0), job.log()
    assert "Using Custom executor with driver dockless" in job.log()
    assert "hello from 0 in /builds/group/project" in job.log()


@needs_binary
def test_exit_code_of_the_script_arrives_at_gitlab(live: Live) -> None:
    job = live.play(gitlab_jobs.job(["echo $((6 * 7)) before", "exit 7", "echo $((6 * 7)) after"]))
    assert (job.status, job.failure_reason, job.exit_code) == ("failed", "script_failure", 7), job.log()
    assert "42 before" in job.log()
    assert "42 after" not in job.log()


@needs_binary
def test_image_that_does_not_exist_fails_the_job_at_the_first_attempt(live: Live) -> None:
    job = live.play(gitlab_jobs.job("true", image="oci:/no/such/layout"))
    assert (job.status, job.failure_reason) == ("failed", "script_failure"), job.log()
    assert "Will be retried" not in job.log()


@needs_binary
def test_service_answers_by_its_alias(live: Live) -> None:
    command = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
    service = {
        "name": "toolbox", "alias": "cache", "command": command, "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "6379"}],
    }  # fmt: skip
    job = live.play(gitlab_jobs.job(["redis-cli -h cache set k $((6 * 7))-times", "redis-cli -h cache get k"], services=[service]))
    assert job.status == "success", job.log()
    assert "42-times" in job.log()


@needs_binary
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


@needs_binary
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


def test_config_toml_is_the_snippet_with_the_runners_own_url_and_token() -> None:
    printed = snippet.text("/opt/dockless", config="/etc/dockless.yaml")
    found = tomllib.loads(gitlab_runner.config_toml(printed, url="http://192.0.2.7:8080", token="glrt-x"))
    (entry,) = found["runners"]
    assert (entry["url"], entry["token"], entry["executor"]) == ("http://192.0.2.7:8080", "glrt-x", "custom")
    assert entry == {**tomllib.loads(printed)["runners"][0], "url": "http://192.0.2.7:8080", "token": "glrt-x"}
    assert (found["concurrent"], found["check_interval"]) == (1, 1)
    assert entry["custom"]["run_args"] == ["--config", "/etc/dockless.yaml", "gitlab", "run"]


def test_snippet_without_a_token_is_not_quietly_used() -> None:
    with pytest.raises(AssertionError, match="0 lines for token"):
        gitlab_runner.config_toml('[[runners]]\n  url = "x"\n', url="u", token="t")


def test_command_takes_one_job_of_the_entry_that_the_snippet_makes() -> None:
    name = tomllib.loads(snippet.text("/opt/dockless"))["runners"][0]["name"]
    command = gitlab_runner.argv("/usr/bin/gitlab-runner", Path("/x/config.toml"))
    assert command == [
        "/usr/bin/gitlab-runner", "run-single", "-c", "/x/config.toml", "-r", name, "--max-builds", "1", "--wait-timeout", "30",
    ]  # fmt: skip


def test_runner_gets_nothing_of_the_callers_own_ci() -> None:
    caller = {
        "PATH": "/bin",
        "CI": "true",
        "CI_JOB_ID": "9",
        "CUSTOM_ENV_X": "1",
        "http_proxy": "http://p",
        "RUNNER_NAME": "x",
        "TMPDIR": "/t",
    }
    assert gitlab_runner.environ(caller, home=Path("/h")) == {"PATH": "/bin", "HOME": "/h"}


def test_installed_program_is_this_working_tree_and_prints_a_snippet_that_names_it(engine: Engine) -> None:
    program = gitlab_runner.install(engine.home.parent / "bin")
    done = gitlab_runner.Process([str(program), "--config", str(engine.config), "gitlab", "register-snippet"], engine.environ())
    assert done.wait(20) == 0
    done.end()
    assert done.output == snippet.text(str(program), config=str(engine.config))


def test_address_for_jobs_is_one_of_this_machine_but_not_loopback() -> None:
    address = gitlab_runner.outward_address()
    assert not address.startswith("127.")
    with Coordinator().running(address=address) as url:
        assert url.startswith(f"http://{address}:")


def test_process_that_will_not_end_is_ended() -> None:
    process = gitlab_runner.Process(["/bin/sh", "-c", "echo ready; exec sleep 4711"], {"PATH": "/usr/bin:/bin"})
    assert wait_until(lambda: process.output == "ready\n")
    process.end()
    assert process.wait(0) == -15

"""gitlab-runner's custom executor, replayed: what it calls, when, with what, and what it makes of the answers (version 19.4).

Follows common/build.go and executors/custom of its source. Left out: masking and timestamps of the job log, submodules, the runner's own
shutdown. `Replay.run` plays a whole job; `Replay.attempt` hands out single phases, for tests that kill things in the middle.
"""

import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.support import gitlab_scripts
from tests.support.gitlab_attempt import CYAN, RED, Attempt, Build, Runner
from tests.support.gitlab_calls import Context, Failure, Kill
from tests.support.gitlab_shell import GREEN, YELLOW


class JobResult(NamedTuple):
    """How a job ended: `status` is success, failed or canceled; `runner_log` is where the output of cleanup goes."""

    status: str
    failure_reason: str
    exit_code: int | None
    log: bytes
    timeline: list[tuple[str, float, int | None]]
    prepare_attempts: int
    runner_log: bytes


def job_payload(**changes: Any) -> dict[str, Any]:
    """Return a job as GitLab sends it.

    `changes` replace whole top-level keys, but for these: `script`, `after_script` (lists of commands), `image`, `services` (names, or
    objects), `variables` (a mapping, or whole entries, behind the predefined ones), `timeout` and `git_info` (merged into the default).
    """
    identity = changes.pop("id", random.randrange(10**6, 10**9))
    script, after = changes.pop("script", ["echo hello"]), changes.pop("after_script", [])
    timeout = changes.pop("timeout", 600)
    image, services = changes.pop("image", "alpine:3.20"), changes.pop("services", [])
    variables = changes.pop("variables", [])
    if isinstance(variables, Mapping):
        variables = [{"key": key, "value": value} for key, value in variables.items()]
    git = {
        "repo_url": "http://gitlab-ci-token:jobtok@gitlab.invalid/group/project.git", "repo_object_format": "sha1", "ref": "main",
        "sha": "0123456789abcdef0123456789abcdef01234567", "before_sha": "0" * 40, "ref_type": "branch",
        "refspecs": ["+refs/heads/main:refs/remotes/origin/main"], "depth": 20, "protected": False,
    } | changes.pop("git_info", {})  # fmt: skip
    predefined = {
        "CI": "true", "GITLAB_CI": "true", "CI_JOB_ID": str(identity), "CI_PROJECT_ID": "7", "CI_PIPELINE_ID": "70", "CI_JOB_NAME": "test",
        "CI_JOB_STAGE": "test", "CI_COMMIT_SHA": git["sha"], "CI_COMMIT_REF_NAME": git["ref"], "CI_PROJECT_PATH": "group/project",
        "CI_JOB_TOKEN": "jobtok",
    }  # fmt: skip
    steps = [{"name": "script", "script": script, "timeout": timeout, "when": "on_success", "allow_failure": False}]
    if after:
        steps.append({"name": "after_script", "script": after, "timeout": timeout, "when": "always", "allow_failure": True})
    payload: dict[str, Any] = {
        "id": identity, "token": f"jobtok-{identity}", "allow_git_fetch": True,
        "job_info": {"name": "test", "stage": "test", "pipeline_id": 70, "project_id": 7, "project_name": "project",
                     "project_full_path": "group/project", "time_in_queue_seconds": 1,
                     "project_jobs_running_on_instance_runners_count": "0"},
        "git_info": git, "runner_info": {"timeout": timeout},
        "variables": [_entry({"key": key, "value": value}) for key, value in predefined.items()] + [_entry(each) for each in variables],
        "steps": steps, "image": _image(image), "services": [_image(each) for each in services] or None,
        "artifacts": [], "cache": [], "credentials": [], "dependencies": [],
        "features": {"trace_sections": True, "token_mask_prefixes": ["glpat-"], "failure_reasons": [
            "unknown_failure", "script_failure", "runner_system_failure", "job_execution_timeout"]},
        "inputs": {},
    }  # fmt: skip
    return payload | changes


def _entry(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"public": True, "file": False, "masked": False, "raw": False, **given}


def _image(given: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": given, "executor_opts": {}} if isinstance(given, str) else {"executor_opts": {}, **given}


class Replay:
    """One job, run by a driver.

    `env` is the environment of the runner's own process, its TMPDIR included. `runner_variables` are those of the runner's `environment`
    setting. `log` gets each piece of the job log as
    it comes.
    """

    def __init__(
        self,
        driver: Mapping[str, Sequence[str]],
        payload: dict[str, Any],
        *,
        env: Mapping[str, str],
        runner_variables: Mapping[str, str] | None = None,
        builds_dir: str = "/builds",
        cache_dir: str = "/cache",
        url: str = "http://gitlab.invalid",
        token: str = "glrt-abcdefghijkl",
        shell: str = "bash",
        concurrent: tuple[int, int] = (0, 0),
        safe_directory: bool = False,
        pre_build_script: str = "",
        post_build_script: str = "",
        log: Callable[[bytes], None] | None = None,
        graceful_s: float = 600.0,
        force_s: float = 10.0,
        retry_interval_s: float = 0.1,
        exec_timeout_s: float = 3600.0,
        finish_wait_s: float = 300.0,
    ) -> None:
        runner = Runner(
            driver=driver, env=dict(env), variables=dict(runner_variables or {}), builds_dir=builds_dir, cache_dir=cache_dir, url=url,
            token=token, shell=shell, concurrent=concurrent, safe_directory=safe_directory, around=(pre_build_script, post_build_script),
            kill=Kill(graceful_s, force_s), exec_timeout_s=exec_timeout_s,
        )  # fmt: skip
        self.build = Build(runner, payload, log)
        self._cancels = self.build.context
        self._retry_interval_s, self._finish_wait_s = retry_interval_s, finish_wait_s

    def cancel(self) -> None:
        """Press the cancel button (`Job-Status: canceling`): only the user's script ends if it runs, else the whole job does."""
        self._cancels.cancel()

    def abort(self) -> None:
        """End the job at once, as `Job-Status: canceled` does."""
        self.build.context.cancel()

    def attempt(self) -> Attempt:
        """Return one executor, on which single phases can be run."""
        return Attempt(self.build)

    def run(self) -> JobResult:
        """Play the job to its end."""
        self.build.say("Running with gitlab-runner 19.4.0 (d79f3e7b)")
        self.build.say('Preparing the "custom" executor', CYAN)
        attempt, attempts, failure = self._prepared()
        if attempt is not None:
            failure = self._run(attempt)
            attempt.cleanup()
        if failure is None:
            self.build.say("Job succeeded", GREEN)
        else:
            system = "" if failure.build and failure.reason != "runner_system_failure" else " (system failure)"
            self.build.say(f"ERROR: Job failed{system}: {failure.message}", RED)
        status = "success" if failure is None else "canceled" if failure.reason == "job_canceled" else "failed"
        reason, code = (failure.reason, failure.exit_code) if failure else ("", 0)
        build = self.build
        return JobResult(status, reason, code, bytes(build.log), list(build.timeline), attempts, bytes(build.runner_log))

    def _prepared(self) -> tuple[Attempt | None, int, Failure | None]:
        failure: Failure | None = None
        for number in (1, 2, 3):
            attempt = Attempt(self.build)
            failure = attempt.prepare().failure
            if failure is None:
                return attempt, number, None
            attempt.cleanup()
            # in this order, and so an exit code of 1 on a SIGTERM hides that the job was cancelled
            if failure.build or self.build.context.done():
                return None, number, failure if failure.build else self.build.context.failure()
            self.build.say(f"ERROR: Preparation failed: {failure.message}", RED)
            self.build.say("Will be retried in 3s ...")
            self.build.context.sleep(self._retry_interval_s)
            if self.build.context.done():
                return None, number, self.build.context.failure()
        return None, 3, failure

    def _run(self, attempt: Attempt) -> Failure | None:
        """Play the stages; an aborted job waits for the stage under way, but not for ever."""
        outcome: list[Failure | None] = []
        script = threading.Thread(target=lambda: outcome.append(self._execute(attempt)), daemon=True)
        script.start()
        while script.is_alive() and not self.build.context.done():
            script.join(0.02)
        if self.build.context.done():
            script.join(self._finish_wait_s)
            return self.build.context.failure()
        return outcome[0]

    def _execute(self, attempt: Attempt) -> Failure | None:
        failure = attempt.stage("prepare_script").failure
        if failure:
            return failure._replace(message=f"prepare environment: {failure.message}")
        failure = (
            self._tried(attempt, "get_sources", "GET_SOURCES_ATTEMPTS")
            or self._tried(attempt, "restore_cache", "RESTORE_CACHE_ATTEMPTS")
            or self._tried(attempt, "download_artifacts", "ARTIFACT_DOWNLOAD_ATTEMPTS")
            or self._user_scripts(attempt)
        )
        cached = attempt.stage("archive_cache_on_failure" if failure else "archive_cache").failure
        uploaded = attempt.stage("upload_artifacts_on_failure" if failure else "upload_artifacts_on_success").failure
        cleaned = attempt.stage("cleanup_file_variables").failure
        if cleaned:
            self.build.write_runner(f"Error while executing file based variables removal script: {cleaned.message}\n".encode())
        return failure or cached or uploaded

    def _tried(self, attempt: Attempt, stage: str, key: str) -> Failure | None:
        given = self.build.value(key, "1")
        failure: Failure | None = None
        for number in range(min(max(int(given) if given.isdecimal() else 1, 1), 10)):
            if number == 1 and stage == "get_sources" and (failure := attempt.stage("clear_worktree").failure):
                continue
            failure = attempt.stage(stage).failure
            if failure is None or self.build.context.done():
                return failure
            self.build.context.sleep(self._retry_interval_s)
        return failure

    def _user_scripts(self, attempt: Attempt) -> Failure | None:
        failure: Failure | None = None
        limit = self.build.value("RUNNER_SCRIPT_TIMEOUT", "")
        context = self._cancels = Context(self.build.context, timeout_s=_seconds(limit) if limit else None)
        for step in self.build.payload["steps"]:
            if step["name"] != "after_script":
                failure = attempt.stage(gitlab_scripts.stage_of_step(step["name"]), context=context).failure
                if failure:
                    break
        if not self.build.context.done() and context.done():
            failure = context.failure()
            if context.done() == "canceled":
                self.build.say("WARNING: script canceled externally (UI, API)", YELLOW)
        reason = failure.reason if failure else "success"
        self.build.status = {"success": "success", "job_canceled": "canceled", "job_execution_timeout": "timedout"}.get(reason, "failed")
        limit = self.build.value("RUNNER_AFTER_SCRIPT_TIMEOUT", "5m")
        after = attempt.stage("after_script", context=Context(self.build.context, timeout_s=_seconds(limit))).failure
        if after and not self.build.context.done():
            if self.build.value("AFTER_SCRIPT_IGNORE_ERRORS", "true").lower() in ("false", "0"):
                return failure or after
            self.build.say(f"WARNING: after_script failed, but job will continue unaffected: {after.message}", YELLOW)
        return failure


def when_logged(text: str, action: Callable[[], None]) -> Callable[[bytes], None]:
    """Return a listener for `log` that acts once, as soon as the job log holds a text."""
    seen = bytearray()

    def listen(piece: bytes) -> None:
        before = text.encode() in seen
        seen.extend(piece)
        if not before and text.encode() in seen:
            action()

    return listen


def _seconds(duration: str) -> float:
    """Read Go's notation of a duration, such as 1h30m or 0.5s."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|h|m|s)", duration))

"""One job under way and its executors: the phases of gitlab-runner's custom executor, each of which calls one program of the driver."""

import json
import os
import posixpath
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.support import gitlab_scripts, gitlab_shell, gitlab_variables
from tests.support.gitlab_calls import Call, Context, Ended, Failure, Kill
from tests.support.gitlab_shell import RESET, YELLOW, Setting, Variable

CYAN, RED = "\033[36;1m", "\033[31;1m"

_FINE = Ended(0, 0.0, None)

# executors/custom/api/config.go, ConfigExecOutput
_ANSWER = {
    "driver": dict, "hostname": str, "builds_dir": str, "cache_dir": str, "builds_dir_is_shared": bool, "job_env": dict, "shell": str,
}  # fmt: skip

_TITLES = {
    "prepare_script": "Preparing environment",
    "get_sources": "Getting source from Git repository",
    "clear_worktree": "Deleting all tracked and untracked files due to source fetch failure",
    "restore_cache": "Restoring cache",
    "download_artifacts": "Downloading artifacts",
    "build_script": 'Executing "step_script" stage of the job script',
    "after_script": "Running after_script",
    "archive_cache": "Saving cache for successful job",
    "archive_cache_on_failure": "Saving cache for failed job",
    "upload_artifacts_on_success": "Uploading artifacts for successful job",
    "upload_artifacts_on_failure": "Uploading artifacts for failed job",
    "cleanup_file_variables": "Cleaning up project directory and file based variables",
}


class Runner(NamedTuple):
    """A runner's settings: what its config.toml and its own process give."""

    driver: Mapping[str, Sequence[str]]
    env: dict[str, str]
    variables: dict[str, str]
    builds_dir: str
    cache_dir: str
    url: str
    token: str
    shell: str
    concurrent: tuple[int, int]
    safe_directory: bool
    around: tuple[str, str]
    kill: Kill
    exec_timeout_s: float


class Build:
    """A job under way: its logs, its state, and what lasts from one attempt to the next."""

    def __init__(self, runner: Runner, payload: dict[str, Any], listener: Callable[[bytes], None] | None) -> None:
        self.runner, self.payload = runner, payload
        self.context = Context(timeout_s=gitlab_variables.job_timeout_s(payload))
        self.status = "running"
        # empty until a first attempt came past config_exec, and so are CI_BUILDS_DIR and CI_PROJECT_DIR
        self.builds_dir = self.project_dir = ""
        self.timeline: list[tuple[str, float, int | None]] = []
        self.log, self.runner_log = bytearray(), bytearray()
        self._listener, self._lock = listener, threading.Lock()

    def write(self, data: bytes) -> None:
        """Append to the job log; any thread may."""
        with self._lock:
            self.log += data
            if self._listener:
                self._listener(data)

    def say(self, text: str, colour: str = "") -> None:
        """Append a line of the runner's own to the job log."""
        self.write(f"{colour}{text}{RESET}\n".encode())

    def write_runner(self, data: bytes) -> None:
        """Append to the runner's log, which no user sees."""
        with self._lock:
            self.runner_log += data

    def variables(self) -> tuple[Variable, ...]:
        """Return the job's variables as they are now."""
        return gitlab_variables.compose(
            self.payload, runner=self.runner.variables, builds_dir=self.builds_dir, project_dir=self.project_dir,
            status=self.status, concurrent=self.runner.concurrent, token=self.runner.token,
        )  # fmt: skip

    def value(self, key: str, default: str) -> str:
        """Return one variable."""
        return next((each.value for each in reversed(self.variables()) if each.key == key), default)


class Attempt:
    """One executor of gitlab-runner: made anew for each try at preparing, with a temporary directory and a configuration of its own."""

    def __init__(self, build: Build) -> None:
        self.temp_dir = ""
        self.job_env: dict[str, str] = {}
        self.build = build
        self._config: dict[str, Any] = {}

    def prepare(self) -> Ended:
        """Make the temporary directory, ask config_exec, start the build, call prepare_exec."""
        ended = self._configure()
        if ended.failure or not self.build.runner.driver.get("prepare"):
            return ended
        return self._wait("prepare", self.start_prepare(), self._limited())

    def start_prepare(self) -> Call | Ended:
        """Do the same but return the running prepare_exec; what failed before it ran is returned as ended."""
        if not self.temp_dir:
            ended = self._configure()
            if ended.failure:
                return ended
        return self._start("prepare", (), self.build.write, self.build.write)

    def stage(self, name: str, body: Sequence[str] | str | None = None, *, context: Context | None = None) -> Ended:
        """Run a stage: with its usual script, or with `body` in the usual wrapper; a stage without a script counts as passed."""
        context = context or self.build.context
        if context.done():
            return Ended(0, 0.0, context.failure())
        text = self.script(name, body)
        return self._wait(name, self._start_script(name, text), context) if text else _FINE

    def start_stage(self, name: str, body: Sequence[str] | str | None = None) -> Call:
        """Start a stage and return its call, for a test to end as it likes; `finish` or `Call.ended` waits for it."""
        started = self._start_script(name, self.script(name, body))
        assert isinstance(started, Call), started
        return started

    def finish(self, name: str, call: Call, *, context: Context | None = None) -> Ended:
        """Wait for a call that was started, and enter it in the timeline."""
        return self._wait(name, call, context or self.build.context)

    def cleanup(self) -> Ended:
        """Call cleanup_exec, whose failure changes nothing, and remove the temporary directory."""
        build, ended = self.build, _FINE
        if build.runner.driver.get("cleanup"):
            ended = self._wait(
                "cleanup", self._start("cleanup", (), build.write_runner, build.write_runner), self._limited(ends_with_job=False)
            )
            if ended.failure:
                build.say(f"WARNING: Cleanup script failed: {ended.failure.message}", YELLOW)
        if self.temp_dir:
            shutil.rmtree(self.temp_dir, ignore_errors=True)
        return ended

    def script(self, name: str, body: Sequence[str] | str | None = None) -> str:
        """Return the text of a stage's script."""
        build, variables = self.build, self.build.variables()
        cache_dir = posixpath.join(self._config.get("cache_dir") or build.runner.cache_dir, gitlab_variables.project_path(build.payload))
        setting = Setting(
            build.payload, variables, build.project_dir, cache_dir, build.runner.url, self._config.get("hostname") or "",
            self._config.get("shell") or build.runner.shell, build.runner.safe_directory, *build.runner.around,
        )  # fmt: skip
        if body is None:
            return gitlab_scripts.script(setting, name)
        lines = [body] if isinstance(body, str) else body
        return gitlab_shell.finish(lines, shell=setting.shell, posix=setting.flag("FF_POSIXLY_CORRECT_ESCAPES"))

    def environment(self) -> dict[str, str]:
        """Return the environment that every call gets now."""
        build, variables = self.build, self.build.variables()
        return gitlab_variables.driver_environment(
            build.runner.env, temp_dir=self.temp_dir, job_env=self.job_env, variables=variables,
            job_services=gitlab_variables.services(build.payload, variables),
        )  # fmt: skip

    def _configure(self) -> Ended:
        build = self.build
        self.temp_dir = self._make_directory(build.runner.env.get("TMPDIR") or "/tmp", "custom-executor")
        self._write("response.json", gitlab_variables.response(build.payload, build.variables()), 0o600)
        answer = bytearray()
        if build.runner.driver.get("config"):
            call = self._start("config", (), answer.extend, build.write)
            ended = self._wait("config", call, self._limited())
            if ended.failure:
                return ended
        try:
            self._config = _decode(bytes(answer))
        except (ValueError, TypeError) as e:
            return Ended(0, 0.0, Failure(f"error while parsing JSON output: {e}"))
        self.job_env = self._config.get("job_env", {})
        named = self._config.get("driver", {})
        words = f" with driver {named['name']}" + (f" {named['version']}" if named.get("version") else "") if named.get("name") else ""
        build.say(f"Using Custom executor{words}...")
        return self._start_build()

    def _start_build(self) -> Ended:
        build = self.build
        builds_dir, cache_dir = (self._config.get(key, getattr(build.runner, key)) for key in ("builds_dir", "cache_dir"))
        for key, given in (("builds_dir", builds_dir), ("cache_dir", cache_dir)):
            if not given:
                return Ended(0, 0.0, Failure(f"the {key} is not configured"))
        if (shell := self._config.get("shell") or build.runner.shell) not in ("bash", "sh", "pwsh", "powershell"):
            return Ended(0, 0.0, Failure(f"shell {shell} not found"))
        path = gitlab_variables.project_path(build.payload)
        if self._config.get("builds_dir_is_shared"):
            path = posixpath.join(gitlab_variables.short(build.runner.token), str(build.runner.concurrent[1]), path)
        build.builds_dir, build.project_dir = builds_dir, posixpath.join(builds_dir, path)
        return _FINE

    def _start_script(self, stage: str, text: str) -> Call | Ended:
        build = self.build
        script = self._write(os.path.join(self._make_directory(self.temp_dir, "script"), "script"), text, 0o700)
        build.write(f"section_start:{int(time.time())}:{stage}\r\033[0K".encode())
        build.say(_TITLES.get(stage, f'Executing "{stage}" stage of the job script'), CYAN)
        if stage == "build_script":
            build.say("WARNING: Starting with version 17.0 the 'build_script' stage will be replaced with 'step_script'", YELLOW)
        return self._start("run", (script, stage), build.write, build.write)

    def _start(self, program: str, more: tuple[str, ...], stdout: Callable[[bytes], None], stderr: Callable[[bytes], None]) -> Call | Ended:
        argv = [*self.build.runner.driver[program], *more]
        try:
            return Call(argv, env=self.environment(), cwd=self.temp_dir or None, stdout=stdout, stderr=stderr)
        except OSError as e:
            return Ended(None, 0.0, Failure(f"failed to start command: {argv[0]}: {e.strerror}"))

    def _wait(self, phase: str, call: Call | Ended, context: Context) -> Ended:
        build = self.build
        ended = call.wait(context, build.runner.kill, os.path.join(self.temp_dir, "build_exit_code")) if isinstance(call, Call) else call
        build.timeline.append((phase, ended.seconds, ended.returncode))
        if phase not in ("config", "prepare", "cleanup"):
            build.write(f"section_end:{int(time.time())}:{phase}\r\033[0K".encode())
        return ended

    def _limited(self, *, ends_with_job: bool = True) -> Context:
        return Context(self.build.context if ends_with_job else None, timeout_s=self.build.runner.exec_timeout_s)

    def _make_directory(self, parent: str, prefix: str) -> str:
        path = os.path.join(parent, f"{prefix}{random.randrange(10**8, 10**10)}")
        os.mkdir(path, 0o700)
        return path

    def _write(self, name: str, text: str, mode: int) -> str:
        path = os.path.join(self.temp_dir, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        return path


def _decode(answer: bytes) -> dict[str, Any]:
    """Read what config_exec printed, as strict about types as Go is; null is as good as absent, unknown keys are ignored."""
    given = json.loads(answer) if answer else {}
    if not isinstance(given, dict):
        raise TypeError("json: cannot unmarshal a value that is no object")
    known = {key: given[key] for key in _ANSWER if given.get(key) is not None}
    typed = all(isinstance(value, _ANSWER[key]) for key, value in known.items())
    inner = [*known.get("job_env", {}).values(), *known.get("driver", {}).values()] if typed else []
    if not typed or not all(isinstance(value, str) for value in inner):
        raise TypeError("json: cannot unmarshal a value into a Go field of another type")
    return known

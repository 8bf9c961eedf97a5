"""A replay of how the runner of GitHub Actions runs the `run:` steps of a job whose `shell:` is ours (contract: H/ScriptHandler.cs).

with Runner(engine, tmp_path).job() as job:
    step = job.step("echo hello", shell="dockless step --image app -- sh -e {0}")
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from runner.kernel import process
from tests.support.engine import TREE, Engine

_FILES = {
    "GITHUB_ENV": "set_env", "GITHUB_OUTPUT": "set_output", "GITHUB_PATH": "add_path", "GITHUB_STATE": "save_state",
    "GITHUB_STEP_SUMMARY": "step_summary",
}  # fmt: skip
_HOST = {"PATH": process.TRUSTED_PATH, "LANG": "C.UTF-8", "SECRET_OF_THE_HOST": "host", "HOST_AND_STEP": "host"}


class Step(NamedTuple):
    """How a step ended: its exit code, its log, and the files in which it left commands for the runner."""

    code: int
    log: str
    files: dict[str, Path]

    def command(self, name: str) -> str:
        return self.files[name].read_text()


class Job:
    """A job in work: what its steps have said so far decides the environment of the next one."""

    def __init__(self, runner: "Runner", *, number: str, environ: Mapping[str, str]) -> None:
        self.runner, self.tracking = runner, f"github_{uuid.uuid4()}"
        self.workspace = runner.work / "repo/repo"
        self.temporary = runner.work / "_temp"
        self.environ: dict[str, str] = {}
        self.path: list[str] = []
        self._more = dict(environ)
        self._number = number
        for directory in (self.workspace, self.temporary, runner.work / "_actions/owner/action/v1", runner.work / "_tool"):
            directory.mkdir(parents=True, exist_ok=True)
        (self.temporary / "_runner_file_commands").mkdir(exist_ok=True)
        (self.temporary / "_github_workflow").mkdir(exist_ok=True)
        (self.temporary / "_github_workflow/event.json").write_text('{"action": "opened"}')
        host = {**runner.engine.environ(), **_HOST}
        self.worker = subprocess.Popen(
            [sys.executable, str(TREE / "tests/support/github_worker.py")],
            env={name: value for name, value in host.items() if not name.startswith(("GITHUB_", "RUNNER_"))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._host = host

    def step_environ(self, files: Mapping[str, Path], env: Mapping[str, str]) -> dict[str, str]:
        """Return a step's environment: the host's, what earlier steps set, the runner's own variables, the step's `env:`."""
        work = self.runner.work
        return {
            **self._host,
            "CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "owner/repo",
            "GITHUB_REPOSITORY_ID": "4711", "GITHUB_RUN_ID": self._number, "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "build",
            "GITHUB_WORKSPACE": str(self.workspace), "GITHUB_EVENT_PATH": str(self.temporary / "_github_workflow/event.json"),
            "RUNNER_NAME": self.runner.name, "RUNNER_OS": "Linux", "RUNNER_TEMP": str(self.temporary),
            "RUNNER_TOOL_CACHE": str(work / "_tool"), "RUNNER_WORKSPACE": str(work / "repo"), "RUNNER_TRACKING_ID": self.tracking,
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "id-token",
            **{name: str(path) for name, path in files.items()},
            **self._more,
            **self.environ,
            **env,
            "PATH": ":".join([*self.path, self._host["PATH"]]),
        }  # fmt: skip

    def begin(
        self, script: str, *, shell: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, prefix: tuple[str, ...] = ()
    ) -> "Running":
        """Start a step; `shell` is the template of the workflow, whose first word is found as the runner finds it."""
        name = uuid.uuid4()
        files = {variable: self.temporary / f"_runner_file_commands/{kind}_{name}" for variable, kind in _FILES.items()}
        for path in files.values():
            path.touch(mode=0o644)
        written = self.temporary / str(name)
        written.write_text(script)
        written.chmod(0o644)
        command, _, arguments = shell.partition(" ")
        assert "{0}" in arguments, "Invalid shell option"
        argv = self.runner.program(command) + arguments.format(written).split(" ")
        output = self.temporary.parent / f"log-{name}"
        request = {
            "argv": [*prefix, *argv], "env": self.step_environ(files, env or {}), "cwd": str(cwd or self.workspace), "output": str(output),
        }  # fmt: skip
        assert self.worker.stdin and self.worker.stdout
        self.worker.stdin.write(json.dumps(request) + "\n")
        self.worker.stdin.flush()
        return Running(self, int(self.worker.stdout.readline()), output, files)

    def step(
        self, script: str, *, shell: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, prefix: tuple[str, ...] = ()
    ) -> Step:
        """Run a step to its end."""
        return self.begin(script, shell=shell, env=env, cwd=cwd, prefix=prefix).end()

    def adopt(self, step: Step) -> None:
        """Read what the step left for the runner: variables and entries of PATH for all later ones."""
        for line in step.command("GITHUB_ENV").splitlines():
            name, _, value = line.partition("=")
            self.environ[name] = value
        self.path = [*reversed(step.command("GITHUB_PATH").splitlines()), *self.path]

    def sweep(self) -> list[int]:
        """Kill what has the job's mark, as the runner does at a job's end, and return its pids (JobExtension.cs)."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    if f"RUNNER_TRACKING_ID={self.tracking}\0".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                        os.kill(int(entry), 9)
                        found.append(int(entry))
                except OSError:
                    continue
        return found

    def end(self) -> None:
        """End the worker, and with it the job; nothing else. Idempotent."""
        self.worker.kill()
        self.worker.wait()
        for stream in (self.worker.stdin, self.worker.stdout):
            if stream:
                stream.close()


class Running:
    """A step that has been started."""

    def __init__(self, job: Job, pid: int, output: Path, files: dict[str, Path]) -> None:
        self.pid = pid
        self._job, self._output, self._files = job, output, files

    @property
    def log(self) -> str:
        return self._output.read_text(errors="replace")

    def end(self) -> Step:
        """Wait for its end; its commands count for later steps."""
        assert self._job.worker.stdout
        step = Step(int(self._job.worker.stdout.readline()), self.log, self._files)
        self._job.adopt(step)
        return step


class Runner:
    """A self-hosted runner with a `_work` of its own."""

    def __init__(self, engine: Engine, directory: Path, *, name: str = "machine-1") -> None:
        self.engine, self.name = engine, name
        self.work = directory / name / "_work"
        self.work.mkdir(parents=True)

    def program(self, command: str) -> list[str]:
        """Return the argv that a template's first word means: ours is the engine's own command line."""
        return self.engine.argv() if command == "dockless" else [command]

    @contextmanager
    def job(self, number: str = "1", *, environ: Mapping[str, str] | None = None) -> Iterator[Job]:
        """Yield a job; afterwards the worker has ended, and what the job's containers left is collected."""
        job = Job(self, number=number, environ=environ or {})
        try:
            yield job
        finally:
            job.end()
            self.engine.run("gc")

"""The actions runner, replayed: how it calls its container hook, and what it makes of the answers (version 2.336).

Follows Runner.Worker's ContainerHookManager, ContainerOperationProvider and ContainerActionHandler: one line of JSON on stdin, the
workspace as working directory, host paths in the environment, signals to one process, an answer that is read after exit 0 and deleted, a
state that comes back with the next call. Left out: masking, problem matchers, expressions.
"""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

INTERRUPT_S, TERMINATE_S = 7.5, 2.5  # after SIGINT and SIGTERM (ProcessInvoker.cs)


class Called(NamedTuple):
    """What became of one call. `response` is None where there was no answer, which is not an error for every command."""

    code: int
    log: str
    response: dict[str, Any] | None
    seconds: float = 0.0


class Runner:
    """A runner in a directory of its own, with one job at a time; `command` is its hook's program and arguments."""

    def __init__(self, root: Path, command: Sequence[str], environ: Mapping[str, str], *, name: str = "runner-1") -> None:
        self.root, self.command = root, list(command)
        self.work = root / "_work"
        self.workspace = self.work / "repo" / "repo"
        self.temp = self.work / "_temp"
        for directory in ("_github_home", "_github_workflow", "_runner_file_commands", "_runner_hook_responses"):
            (self.temp / directory).mkdir(parents=True)
        self.workspace.mkdir(parents=True)
        (root / "externals").mkdir()
        (root / "_diag").mkdir()
        (self.temp / "_github_workflow" / "event.json").write_text("{}\n")
        self.state: dict[str, Any] | None = None
        self.context: dict[str, Any] = {}
        self.path: list[str] = []  # what steps wrote to GITHUB_PATH, latest first
        self.has_container = False
        self.environ = {
            **environ, "GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_RUN_ID": "4711", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "test",
            "GITHUB_REPOSITORY": "octo/repo", "GITHUB_REPOSITORY_ID": "99", "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_WORKSPACE": str(self.workspace), "RUNNER_NAME": name, "RUNNER_OS": "Linux", "RUNNER_TEMP": str(self.temp),
            "RUNNER_WORKSPACE": str(self.workspace.parent), "RUNNER_TOOL_CACHE": str(self.work / "_tool"),
            "RUNNER_TRACKING_ID": f"github_{uuid.uuid4()}",
        }  # fmt: skip

    # the four calls

    def prepare(
        self, container: Mapping[str, Any] | str | None = "toolbox", services: Sequence[Mapping[str, Any]] = (), *, check: bool = True
    ) -> Called:
        """Play "Initialize containers"; the answer is judged as the runner's reader would."""
        called = self.call("prepare_job", self.preparation(container, services))
        if called.code == 0:
            self._read_answer(called.response, asked=len(services))
        assert called.code == 0 or not check, called.log
        return called

    def preparation(self, container: Mapping[str, Any] | str | None, services: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Return the arguments of that call; the steps that follow are those of such a job."""
        self.has_container = container is not None
        asked = {"image": container} if isinstance(container, str) else container
        job = None if asked is None else self.container(asked, system=self._job_mounts(), environment={"HOME": "/github/home"})
        return {
            "container": job and {**job, "workingDirectory": "/__w/repo/repo"},
            "services": [self.container(each, system=[], environment={}) for each in services],
        }

    def step(
        self,
        script: str,
        *,
        shell: str = "sh",
        arguments: str = "-e {0}",
        env: Mapping[str, str] | None = None,
        cwd: str = "/__w/repo/repo",
    ) -> Called:
        """Play a `run:` step in the job container, and read the files that it may have written to."""
        return self.call("run_script_step", self.script(script, shell=shell, arguments=arguments, env=env, cwd=cwd))

    def script(
        self,
        script: str,
        *,
        shell: str = "sh",
        arguments: str = "-e {0}",
        env: Mapping[str, str] | None = None,
        cwd: str = "/__w/repo/repo",
    ) -> dict[str, Any]:
        """Return the arguments of a `run:` step, with its script written where the runner would."""
        assert self.has_container, "without a job container such a step runs on the host"
        name = f"{uuid.uuid4()}.sh"
        (self.temp / name).write_text(script)
        files = {f"GITHUB_{key}": f"/__w/_temp/{self._command_file(key)}" for key in ("ENV", "OUTPUT", "PATH", "STATE", "STEP_SUMMARY")}
        return {
            "entryPoint": shell,
            "entryPointArgs": arguments.replace("{0}", f"/__w/_temp/{name}").split(" "),
            "environmentVariables": {"GITHUB_WORKSPACE": "/__w/repo/repo", **files, **(env or {})},
            "prependPath": self.path,
            "workingDirectory": cwd,
        }

    def action(
        self, image: str = "", *, dockerfile: Path | None = None, entrypoint: str | None = None, arguments: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Called:  # fmt: skip
        """Play a step that is a container: `uses: docker://…`, or an action with a Dockerfile."""
        return self.call(
            "run_container_step", self.container_step(image, dockerfile=dockerfile, entrypoint=entrypoint, arguments=arguments, env=env)
        )

    def container_step(
        self, image: str = "", *, dockerfile: Path | None = None, entrypoint: str | None = None, arguments: str = "",
        env: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Return the arguments of such a step."""
        files = {f"GITHUB_{key}": f"/github/file_commands/{os.path.basename(self._command_file(key))}" for key in ("ENV", "OUTPUT")}
        environment = {"HOME": "/github/home", "GITHUB_WORKSPACE": "/github/workspace", **files, **(env or {})}
        return {
            **self.container({"image": image or None}, system=self._action_mounts(), environment=environment),
            "dockerfile": str(dockerfile) if dockerfile else None,
            "entryPoint": entrypoint,
            "entryPointArgs": [word for word in arguments.split(" ") if word],
            "workingDirectory": "/github/workspace",
        }

    def cleanup(self) -> Called:
        """Play "Stop containers"."""
        return self.call("cleanup_job", {})

    def call(self, command: str, arguments: Mapping[str, Any]) -> Called:
        """Call the hook and wait for its end."""
        return self.finish(self.start(command, arguments))

    def start(self, command: str, arguments: Mapping[str, Any]) -> "Call":
        """Call the hook and leave it running."""
        response = self.temp / "_runner_hook_responses" / f"{uuid.uuid4()}.json"
        response.touch()
        line = json.dumps({"command": command, "responseFile": str(response), "args": arguments, "state": self.state}) + "\n"
        environ = {**self.environ, "PATH": ":".join([*self.path, self.environ["PATH"]])}
        began = time.perf_counter()
        process = subprocess.Popen(
            self.command, cwd=self.workspace, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(line)
        process.stdin.close()
        return Call(process, response, began)

    def finish(self, call: "Call") -> Called:
        """Wait for a call, take its answer and its state, and read what the step wrote to GITHUB_PATH."""
        assert call.process.stdout
        with call.process.stdout as stdout:
            log = stdout.read()
        code = call.process.wait()
        seconds = time.perf_counter() - call.began
        answer = None
        try:
            raw = call.response.read_text()
            call.response.unlink()
        except FileNotFoundError:
            raw = ""
        if code == 0 and raw:
            answer = json.loads(raw)
            if answer.get("state") is not None:
                self.state = answer["state"]
        for path in sorted((self.temp / "_runner_file_commands").glob("add_path_*")):
            lines = path.read_text().splitlines() if path.stat().st_size else []
            self.path = [*reversed(lines), *self.path]
            path.unlink()
        return Called(code, log, answer, seconds)

    def output(self, key: str = "output") -> str:
        """Return everything that steps have written to a file command so far."""
        found = (self.temp / "_runner_file_commands").glob(f"set_{key}_*" if key != "step_summary" else f"{key}_*")
        return "".join(path.read_text() for path in sorted(found, key=lambda path: path.stat().st_mtime))

    def _command_file(self, key: str) -> str:
        prefix = {"ENV": "set_env", "OUTPUT": "set_output", "PATH": "add_path", "STATE": "save_state", "STEP_SUMMARY": "step_summary"}[key]
        path = self.temp / "_runner_file_commands" / f"{prefix}_{uuid.uuid4()}"
        path.touch()
        return f"_runner_file_commands/{path.name}"

    def _read_answer(self, response: dict[str, Any] | None, *, asked: int) -> None:
        """Read an answer to prepare_job as HookResponse.cs and ContainerHookManager do, who fail the job over what is missing."""
        assert response is not None, "the runner dereferences the response of prepare_job"
        if self.has_container:
            assert isinstance(response["isAlpine"], bool)
        context = response.get("context") or {}
        if not self.has_container:
            assert context.get("container") is None, "there is no job container to copy id and network to"
        services = context.get("services", [])
        assert isinstance(services, list)
        assert len(services) <= asked
        for each in services:
            assert all(isinstance(key, str) and isinstance(value, str) for key, value in each["ports"].items())
            assert isinstance(each["id"], str)
        self.context = context

    def container(self, asked: Mapping[str, Any], *, system: list[dict[str, Any]], environment: Mapping[str, str]) -> dict[str, Any]:
        """Return a container object as the runner sends it, `asked` over its defaults."""
        return {
            "image": None, "dockerfile": None, "entryPointArgs": [], "entryPoint": None, "workingDirectory": None, "createOptions": None,
            "registry": None, "portMappings": [], "systemMountVolumes": system, "userMountVolumes": [], **asked,
            "environmentVariables": {**asked.get("environmentVariables", {}), **environment},
        }  # fmt: skip

    def _job_mounts(self) -> list[dict[str, Any]]:
        return [
            _mount("/var/run/docker.sock", "/var/run/docker.sock"),
            _mount(self.work, "/__w"), _mount(self.root / "externals", "/__e", read_only=True), _mount(self.temp, "/__w/_temp"),
            _mount(self.work / "_actions", "/__w/_actions"), _mount(self.work / "_tool", "/__w/_tool"),
            _mount(self.temp / "_github_home", "/github/home"), _mount(self.temp / "_github_workflow", "/github/workflow"),
        ]  # fmt: skip

    def _action_mounts(self) -> list[dict[str, Any]]:
        return [
            _mount("/var/run/docker.sock", "/var/run/docker.sock"),
            _mount(self.temp, "/github/runner_temp"), _mount(self.temp / "_github_home", "/github/home"),
            _mount(self.temp / "_github_workflow", "/github/workflow"),
            _mount(self.temp / "_runner_file_commands", "/github/file_commands"),
            _mount(self.workspace, "/github/workspace"),
        ]  # fmt: skip


class Call(NamedTuple):
    """A call that runs."""

    process: "subprocess.Popen[str]"
    response: Path
    began: float

    def cancel(self) -> None:
        """Cancel as the runner does: SIGINT to the one process, then SIGTERM, then SIGKILL. Waits for its end."""
        for number, patience_s in ((signal.SIGINT, INTERRUPT_S), (signal.SIGTERM, TERMINATE_S)):
            self.process.send_signal(number)
            try:
                self.process.wait(patience_s)
                return
            except subprocess.TimeoutExpired:
                continue
        self.process.kill()


def _mount(source: Path | str, target: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"userProvidedValue": None, "sourceVolumePath": str(source), "targetVolumePath": target, "readOnly": read_only}

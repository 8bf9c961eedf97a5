"""The docker command as an agent's Pipelines call it: installed by dockless, found by its path, in the agent's environment."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.engine import Engine, Result

COOKIE = "durable-" + "5" * 64


class Agent(NamedTuple):
    """A node: its remote root with one workspace, and the directory that has its docker."""

    engine: Engine
    program: Path
    workspace: Path

    @property
    def temporary(self) -> Path:
        """The directory beside the workspace that Jenkins keeps its own files in."""
        return self.workspace.with_name(f"{self.workspace.name}@tmp")

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a process of the agent."""
        return self.engine.environ({"PATH": f"{self.program.parent}:{os.environ['PATH']}", **(more or {})})

    def docker(self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, timeout_s: float = 120) -> Result:
        """Run docker to its end, as a direct launch does."""
        done = subprocess.run(
            [str(self.program), *arguments], env=self.environ(env), cwd=self.workspace, input=stdin, capture_output=True, text=True,
            errors="replace", timeout=timeout_s, check=False,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def answer(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run docker, which has to succeed, and return its output."""
        result = self.docker(*arguments, env=env)
        assert result.code == 0, result
        return result.out

    def sh(self, command: str, env: Mapping[str, str] | None = None) -> Result:
        """Run a command line in a shell of the node, as a `sh` step does."""
        done = subprocess.run(
            ["sh", "-xec", command], env=self.environ(env), cwd=self.workspace, capture_output=True, text=True, timeout=120, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def inside(self, image: str, *more: str) -> str:
        """Begin a block of withDockerContainer and return the container's id: docker-workflow's command line, in its order."""
        mounts = [word for path in (self.workspace, self.temporary) for word in ("-v", f"{path}:{path}:rw,z")]
        ids = f"{os.getuid()}:{os.getgid()}"
        out = self.answer("run", "-t", "-d", "-u", ids, *more, "-w", str(self.workspace), *mounts, "-e", "BUILD_ID=7", image, "cat")
        return out.strip()

    def end(self, container: str) -> None:
        """End a block."""
        self.answer("stop", "--time=1", container)
        self.answer("rm", "-f", "--volumes", container)


class Step(NamedTuple):
    """One `sh` step of durable-task, by its control directory."""

    control: Path

    @property
    def result(self) -> Path:
        return self.control / "jenkins-result.txt"

    @property
    def log(self) -> Path:
        return self.control / "jenkins-log.txt"

    def argv(self, script: str) -> list[str]:
        """Write the script and return the command that durable-task launches for it (BourneShellScript.java)."""
        self.control.mkdir()
        path = self.control / "script.sh"
        path.write_text(script)
        c, s, r, log = self.control, path, self.result, self.log
        wrapper = (
            f"(cp '{s}' '{s}.copy'; {{ while [ -d '{c}' -a \\! -f '{r}' ]; do touch '{log}'; sleep 3; done }} & jsc={COOKIE}; "
            f"JENKINS_SERVER_COOKIE=$jsc 'sh' -xe  '{s}.copy' > '{log}' 2>&1; echo $? > '{r}.tmp'; mv '{r}.tmp' '{r}'; wait) >&- 2>&- &"
        )
        return ["nohup", "sh", "-c", wrapper]

    def begin(self, agent: Agent, container: str, script: str) -> Result:
        """Start the step in a container; returns as soon as docker does."""
        environ = ["--env", "JENKINS_SERVER_COOKIE=please-do-not-kill-me", "--env", "JENKINS_NODE_COOKIE=1-2-3"]
        return agent.docker("exec", *environ, container, *self.argv(script))


def install(engine: Engine, root: Path, *options: str) -> Agent:
    """Install the docker command and make the workspace of a node whose remote root is `root`."""
    result = engine.run("jenkins", "install-docker-shim", str(root / "bin"), *options)
    assert result.code == 0, result
    agent = Agent(engine, root / "bin" / "docker", root / "workspace" / "job one")
    agent.temporary.mkdir(parents=True)
    agent.workspace.mkdir()
    return agent

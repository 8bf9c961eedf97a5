"""The kinds of jobs of a soak: each plays one as its CI system would and tells whether it did what it should."""

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runner.adapters.github import identity
from runner.adapters.jenkins import containers
from tests.support.docker_shim import Agent
from tests.support.engine import Engine
from tests.support.github_replay import Runner
from tests.support.gitlab_jobs import GitLab, job
from tests.support.gitlab_replay import Replay

MARK = "DOCKLESS_SOAK_JOB"  # in the environment of every process that a job's CI system starts
_LIMIT_S = 240
_WEB = {
    "name": "toolbox", "alias": "db", "command": ["python3", "-m", "http.server", "80"],
    "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "80"}],
}  # fmt: skip


class Workshop(NamedTuple):
    """Where jobs are made."""

    engine: Engine
    gitlab: GitLab
    agent: Agent
    images: tuple[str, ...]
    root: Path

    def environ(self, number: int) -> dict[str, str]:
        """Return the environment of the programs that are started for a job."""
        return {**self.gitlab.environment(), MARK: str(number)}


class Job:
    """One job: what attacks need to know of it while it is played."""

    def __init__(self, number: int, kind: str, rng: random.Random) -> None:
        self.number, self.kind, self.rng = number, kind, rng
        self.key_prefix = ""  # of its directory in the store, as soon as that is known
        self.replay: Replay | None = None  # of a GitLab job

    @property
    def token(self) -> str:
        """What the job's own script says if it comes to its end."""
        return f"soak-{self.number}-{self.number * 7}"

    def script(self) -> str:
        """Return a shell script that says the token, computed so that no log of the script itself has it."""
        work = self.rng.choice(["true", "sleep 0.2", "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done", "echo x > /tmp/x; rm /tmp/x"])
        return f"{work}; sh -c 'sleep 300' >/dev/null 2>&1 & echo soak-{self.number}-$(({self.number}*7))"


class Outcome(NamedTuple):
    """How a job ended: whether everything that it is made of did what it should, and what was said."""

    passed: bool
    log: str


Play = Callable[[Workshop, Job], Outcome]


def gitlab(shop: Workshop, asked: Job, *, services: int = 0) -> Outcome:
    """Play a GitLab job, with or without services."""
    identity_ = 1_000_000 + asked.number
    asked.key_prefix = f"gitlab-{identity_}-"
    image = "toolbox" if services else asked.rng.choice(shop.images)
    script = f"curl -fsS -o /dev/null http://db/ && {asked.script()}" if services else asked.script()
    payload = job(
        [script], id=identity_, image=image, project=asked.rng.randrange(1, 9), services=[_WEB] * services, after_script=["echo after"]
    )
    asked.replay = Replay(shop.gitlab.driver(), payload, env=shop.environ(asked.number), graceful_s=60.0)
    result = asked.replay.run()
    log = (result.log + result.runner_log).decode(errors="replace")
    return Outcome(result.status == "success" and asked.token in log, log)


def gitlab_with_service(shop: Workshop, asked: Job) -> Outcome:
    """Play a GitLab job that talks to its service."""
    return gitlab(shop, asked, services=1)


def run(shop: Workshop, asked: Job) -> Outcome:
    """Play `dockless run`."""
    argv = shop.engine.argv("run", "--image", asked.rng.choice(shop.images), "--", "sh", "-c", asked.script())
    return _watched(shop, asked, argv)


def jenkins_run(shop: Workshop, asked: Job) -> Outcome:
    """Play `docker run --rm` of the shim."""
    argv = [str(shop.agent.program), "run", "--rm", asked.rng.choice(shop.images), "sh", "-c", asked.script()]
    return _watched(shop, asked, argv)


def _watched(shop: Workshop, asked: Job, argv: list[str]) -> Outcome:
    process = subprocess.Popen(
        argv, env=shop.environ(asked.number), cwd=shop.agent.workspace, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    asked.key_prefix = f"run-{process.pid}-"
    out, _ = process.communicate(timeout=_LIMIT_S)
    return Outcome(process.returncode == 0 and asked.token in out, f"exit code {process.returncode}\n{out}")


def github(shop: Workshop, asked: Job) -> Outcome:
    """Play a GitHub job with a container of its own, sometimes with a service, and its clean-up whatever came before."""
    runner = Runner(
        shop.root / f"github-{asked.number}", shop.engine.argv("github", "hook"), shop.environ(asked.number), name=f"runner-{asked.number}"
    )
    asked.key_prefix = identity.key(str(runner.work))
    services = [{"image": "toolbox", "entryPoint": "sleep", "entryPointArgs": ["300"]}] if asked.rng.random() < 0.3 else []
    calls = [runner.prepare(asked.rng.choice(shop.images), services, check=False)]
    if calls[-1].code == 0:
        calls += [runner.step(asked.script()), runner.step("echo second >> $GITHUB_OUTPUT")]
    calls.append(runner.cleanup())
    if calls[-1].code:  # it was killed: the sweep would take the job once its worker has ended, which is this process here
        calls.append(runner.cleanup())
    log = "\n".join(f"exit code {call.code}\n{call.log}" for call in calls)
    return Outcome(len(calls) == 4 and not any(call.code for call in calls) and asked.token in log, log)


def jenkins_block(shop: Workshop, asked: Job) -> Outcome:
    """Play withDockerContainer: run, two execs, stop, rm; the agent removes the container whatever came before."""
    env = {MARK: str(asked.number), "TMPDIR": shop.environ(asked.number)["TMPDIR"]}
    work = str(shop.agent.workspace)
    ids = f"{os.getuid()}:{os.getgid()}"
    image = asked.rng.choice(shop.images)
    named = f"soak-{asked.number}"
    began = shop.agent.docker("run", "-t", "-d", "--name", named, "-u", ids, "-w", work, "-v", f"{work}:{work}:rw,z", image, "cat", env=env)
    results = [began]
    if began.code == 0:
        name = began.out.strip()
        asked.key_prefix = containers.key(name)
        results.append(shop.agent.docker("exec", name, "sh", "-c", asked.script(), env=env, timeout_s=_LIMIT_S))
        results.append(shop.agent.docker("exec", name, "sh", "-c", "echo second", env=env, timeout_s=_LIMIT_S))
        results.append(shop.agent.docker("stop", "--time=1", name, env=env, timeout_s=_LIMIT_S))
    # by its name: as with docker's client, one that is killed just before it prints the id leaves a container that runs
    results.append(shop.agent.docker("rm", "-f", "--volumes", named, env=env, timeout_s=_LIMIT_S))
    log = "\n".join(f"exit code {result.code}\n{result.out}{result.err}" for result in results)
    return Outcome(len(results) == 5 and not any(result.code for result in results) and asked.token in log, log)


def collect(shop: Workshop, asked: Job) -> Outcome:
    """Collect garbage beside everything else."""
    return _housekeeping(shop, asked, "gc")


def _housekeeping(shop: Workshop, asked: Job, *words: str) -> Outcome:
    result = shop.engine.run(*words, env=shop.environ(asked.number), timeout_s=_LIMIT_S)
    return Outcome(result.code == 0, f"exit code {result.code}\n{result.out}{result.err}")


# how often each is chosen
KINDS: dict[str, tuple[Play, int]] = {
    "gitlab": (gitlab, 25),
    "gitlab with service": (gitlab_with_service, 20),
    "run": (run, 20),
    "github": (github, 15),
    "jenkins run": (jenkins_run, 8),
    "jenkins block": (jenkins_block, 8),
    "gc": (collect, 4),
}

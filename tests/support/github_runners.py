"""Runners for tests: with a hook called straight away, or by what `dockless github install` wrote, and node as the runner brings it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from runner import launcher
from tests.support import images
from tests.support.engine import Engine
from tests.support.github_replay import Runner

NODE = shutil.which("node") or ""


def straight(engine: Engine, root: Path, *, name: str = "runner-1") -> Runner:
    """Return a runner whose hook is this tree's program, without a launcher between."""
    runner = Runner(root, engine.argv("github", "hook"), engine.environ(), name=name)
    (root / "run.sh").touch()
    give_node(runner)
    return runner


def give_node(runner: Runner) -> None:
    """Put a node among the runner's own programs, also as containers of the toolbox see it."""
    for version in ("node20", "node24"):
        directory = runner.root / "externals" / version / "bin"
        directory.mkdir(parents=True)
        (directory / "node").symlink_to(NODE)


def install(engine: Engine, runner: Runner, program_dir: Path, *options: str) -> str:
    """Install the hook with an installed program, as an administrator does; the runner calls what its .env names from now on."""
    program_dir.mkdir()
    program = program_dir / "dockless"
    launcher.write(str(program), sys.executable)
    argv = [str(program), *engine.argv()[3:], "github", "install", "--runner-dir", str(runner.root), *options]
    subprocess.run(argv, env=engine.environ(), check=True, capture_output=True, timeout=60)
    lines = dict(line.split("=", 1) for line in (runner.root / ".env").read_text().splitlines())
    hook = lines["ACTIONS_RUNNER_CONTAINER_HOOKS"]
    runner.command = [str(runner.root / "externals/node20/bin/node"), hook] if hook.endswith(".js") else ["bash", "-e", hook]
    return str(program)


def store_image(engine: Engine, directory: Path, image: images.BuiltImage, **settings: object) -> str:
    """Write an image where this machine's configuration lets jobs use it, and return what a workflow would call it."""
    images.write_oci_layout(directory, image, "v1")
    engine.config.write_text(yaml.safe_dump({"images": {"allowed": ["**", f"oci:{directory.parent}/**"]}, **settings}))
    return f"oci:{directory}:v1"


def worker_log(runner: Runner, services: dict[str, str]) -> None:
    """Write what Runner.Worker writes into its diagnostic log before it calls the hook: the job message with the services' names."""
    rows = [
        {"Key": name, "Value": {"type": 2, "map": [{"Key": {"type": 0, "lit": "image"}, "Value": {"type": 0, "lit": image}}]}}
        for name, image in services.items()
    ]
    message = json.dumps({"messageType": "PipelineAgentJobRequest", "jobServiceContainers": {"type": 2, "map": rows}}, indent=2)
    log = f"[2026-01-01 00:00:00Z INFO Worker] Job message:\n {message}\n[2026-01-01 00:00:01Z INFO Worker] next\n"
    (runner.root / "_diag" / "Worker_20260101-000000-utc.log").write_text(log)

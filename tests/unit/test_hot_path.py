"""Start-up is part of the contract with CI systems: which modules the commands of every step load, seen in the real program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.kernel import process
from tests.support import imports
from tests.support.engine import TREE


def run(arguments: list[str], tmp_path: Path, *, environ: dict[str, str] | None = None, stdin: str | None = None) -> tuple[set[str], str]:
    """Run the program and return the modules that it loaded, and what it and its container said."""
    own = {
        "PATH": process.TRUSTED_PATH, "HOME": str(tmp_path), "DOCKLESS_STATE": str(tmp_path / "state"), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run(
        imports.argv(*arguments), env={**own, **(environ or {})}, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    return imports.loaded(done.stderr), done.stdout + imports.without(done.stderr)


@pytest.fixture
def configured(tmp_path: Path) -> dict[str, str]:
    """Return the variables of a machine with a configuration that was read once, as the second step of a job finds it."""
    config = tmp_path / "config.yaml"
    config.write_text("images: {allowed: []}\n")
    environ = {"DOCKLESS_CONFIG": str(config)}
    run(["images"], tmp_path, environ=environ)
    return environ


def test_run_loads_nothing_slow_to_the_end_of_its_container(tmp_path: Path, configured: dict[str, str]) -> None:
    modules, words = run(["run", "--network", "none", "-e", "A=1", "--", "sh", "-c", "echo ran $A"], tmp_path, environ=configured)
    assert "ran 1" in words
    assert {"runner.cli.run", "runner.job.step", "runner.config_cache"} <= modules
    assert imports.slow(modules) == set()


def test_run_with_a_network_loads_nothing_slow_either(tmp_path: Path) -> None:
    modules, words = run(["run", "--", "echo", "ran"], tmp_path)
    assert "ran" in words
    assert imports.slow(modules) == set()


def test_docker_exec_and_run_load_nothing_slow(tmp_path: Path) -> None:
    modules, words = run(["jenkins", "docker", "--", "run", "-d", "--network", "none", "-t", "toolbox", "cat"], tmp_path)
    container = next(line for line in words.splitlines() if len(line) == 64)
    started = modules
    executed, said = run(["jenkins", "docker", "--", "exec", "--env", "A=1", container, "sh", "-c", "echo ran $A"], tmp_path)
    ended = {verb[0]: run(["jenkins", "docker", "--", *verb, container], tmp_path) for verb in (["stop", "--time=1"], ["rm", "-f"])}
    assert "runner.job.detached" in started
    assert imports.slow(started) == set()
    assert "ran 1" in said
    assert imports.slow(executed, stage=True) == set()
    for modules, words in ended.values():
        assert container in words
        assert imports.slow(modules) == set()


@pytest.mark.parametrize(
    "module",
    [
        "cli.run", "cli.step", "adapters.gitlab.config", "adapters.gitlab.prepare", "adapters.gitlab.run", "adapters.gitlab.cleanup",
        "adapters.github.hook", "adapters.github.prepare_job", "adapters.github.run_script_step", "adapters.github.cleanup_job",
    ],
)  # fmt: skip
def test_everything_that_a_hot_command_imports_is_quick(module: str) -> None:
    module = f"runner.{module}"
    program = f"import sys; sys.path.append({str(TREE)!r}); import runner.__main__, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-IS", "-c", program], env={}, capture_output=True, text=True, timeout=60, check=True)
    modules = set(done.stdout.split())
    assert module in modules
    assert imports.slow(modules) == set()


def test_gitlab_run_without_a_job_loads_nothing_slow(tmp_path: Path) -> None:
    modules, words = run(["gitlab", "run", os.devnull, "build_script"], tmp_path)
    assert "was not prepared on this machine" in words
    assert imports.slow(modules, stage=True) == set()


def test_step_of_a_github_job_loads_nothing_slow(tmp_path: Path) -> None:
    work = tmp_path / "_work"
    (work / "_temp" / "_runner_hook_responses").mkdir(parents=True)
    response = str(work / "_temp" / "_runner_hook_responses" / "1.json")

    def call(command: str, arguments: dict[str, object]) -> tuple[set[str], str]:
        line = json.dumps({"command": command, "responseFile": response, "args": arguments, "state": None})
        return run(["github", "hook"], tmp_path, stdin=line)

    mount = {"sourceVolumePath": str(work), "targetVolumePath": "/__w", "readOnly": False}
    modules, words = call("prepare_job", {"container": {"image": "toolbox", "systemMountVolumes": [mount]}, "services": []})
    assert "error" not in words
    assert imports.slow(modules) == set()
    modules, words = call("run_script_step", {"entryPoint": "echo", "entryPointArgs": ["ran"], "environmentVariables": {"A": "1"}})
    assert words == "ran\n"
    assert "runner.job.step" in modules
    assert imports.slow(modules, stage=True) == set()
    call("cleanup_job", {})


def test_misspelt_option_of_run_waits_for_the_suggestion_only(tmp_path: Path) -> None:
    modules, words = run(["run", "--imgae", "x"], tmp_path)
    assert "did you mean --image?" in words
    assert imports.slow(modules) == {"difflib", "re", "enum", "collections"}


def test_version_needs_no_command_line_library(tmp_path: Path) -> None:
    modules, words = run(["--version"], tmp_path)
    assert words.startswith("dockless ")
    assert imports.slow(modules) == set()


def test_the_measure_itself_sees_what_is_slow(tmp_path: Path) -> None:
    modules, words = run(["images"], tmp_path, environ={"DOCKLESS_CONFIG": os.devnull})
    assert "not a regular file" in words
    assert {"click", "yaml", "runner.cli.commands"} <= imports.slow(modules)

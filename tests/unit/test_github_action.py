"""The composite action: its parts run with the variables that the runner sets, beside programs that note how they are called."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.cli import step_options
from tests.support.engine import TREE

ACTION = TREE / "ci-templates/github/step"
DEFINITION: dict[str, Any] = yaml.safe_load((ACTION / "action.yml").read_text())
_NOTE = """#!/bin/sh
{ printf '%s' "${0##*/}"; printf ' [%s]' "$@"; echo; } >> "$NOTES"
"""


class Machine:
    """A checkout of the action on a machine without dockless, or with it."""

    def __init__(self, directory: Path) -> None:
        self.programs, self.notes, self.prefix = directory / "bin", directory / "notes", directory / "opt"
        self.repository, self.proc = directory / "_actions/owner/dockless/v1", directory / "proc"
        self.action = self.repository / "ci-templates/github/step"
        shutil.copytree(ACTION, self.action)
        (self.proc / "sys/kernel").mkdir(parents=True)
        self.programs.mkdir()
        (self.repository / "dev").write_text(_NOTE)
        for name in ("sh", "dirname", "id", "cat", "env"):
            (self.programs / name).symlink_to(shutil.which(name) or "")
        self.python = "/usr/bin/python3"

    def has(self, program: str, text: str = _NOTE) -> None:
        path = self.programs / program
        path.write_text(text)
        path.chmod(0o755)

    def may_use_sudo(self) -> None:
        # carries out what it is asked for, as far as that is ours
        self.has("sudo", _NOTE + 'shift; case $1 in true) ;; sh) "$@" ;; sysctl | ln | /*) ;; *) exit 1 ;; esac\n')

    def restricts_namespaces(self) -> None:
        (self.proc / "sys/kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")

    def run(self, script: str, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        own = {
            "PATH": str(self.programs), "NOTES": str(self.notes), "DOCKLESS_PREFIX": str(self.prefix), "DOCKLESS_PROC": str(self.proc),
            "DOCKLESS_PYTHON": self.python, "GITHUB_ACTION_PATH": str(self.action), **(env or {}),
        }  # fmt: skip
        return subprocess.run(
            ["/bin/sh", str(self.action / script), *arguments], env=own, capture_output=True, text=True, timeout=60, check=False
        )

    def called(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_installed_where_dockless_is(machine: Machine) -> None:
    machine.may_use_sudo()
    machine.restricts_namespaces()
    machine.has("dockless")
    done = machine.run("install.sh")
    assert (done.returncode, done.stdout) == (0, f"dockless is there: {machine.programs}/dockless\n")
    assert machine.called() == []


def test_nothing_is_installed_where_dockless_is_not_on_the_path(machine: Machine) -> None:
    machine.prefix.mkdir()
    shutil.copy("/bin/true", machine.prefix / "dockless")
    done = machine.run("install.sh")
    assert (done.returncode, done.stdout) == (0, f"dockless is there: {machine.prefix}/dockless\n")


@pytest.mark.parametrize("kind", ["github-hosted", "self-hosted"])
def test_dockless_is_installed_for_the_runners_account(machine: Machine, kind: str) -> None:
    machine.may_use_sudo()
    done = machine.run("install.sh", env={"RUNNER_ENVIRONMENT": kind})
    assert done.returncode == 0, done.stderr
    account = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    repository = machine.action.resolve().parents[2]
    assert machine.called() == [
        "sudo [-n] [true]",
        f"sudo [-n] [sh] [{repository}/dev] [setup]",
        "dev [setup]",
        f"sudo [-n] [ln] [-sfn] [{machine.prefix}/dockless] [/usr/local/bin/dockless]",
        f"sudo [-n] [{machine.prefix}/dockless] [setup] [--no-systemd] [--account] [{account}]",
    ]


def test_restriction_of_apparmor_is_lifted_on_a_machine_that_is_thrown_away(machine: Machine) -> None:
    machine.may_use_sudo()
    machine.restricts_namespaces()
    assert machine.run("install.sh", env={"RUNNER_ENVIRONMENT": "github-hosted"}).returncode == 0
    assert machine.called()[1] == "sudo [-n] [sysctl] [-q] [-w] [kernel.apparmor_restrict_unprivileged_userns=0]"


def test_restriction_of_apparmor_is_the_administrators_elsewhere(machine: Machine) -> None:
    machine.may_use_sudo()
    machine.restricts_namespaces()
    done = machine.run("install.sh", env={"RUNNER_ENVIRONMENT": "self-hosted"})
    assert done.returncode == 1
    assert done.stderr.startswith("::error::AppArmor of this machine restricts user namespaces")
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in done.stderr and "docs/github-step.md" in done.stderr
    assert machine.called() == ["sudo [-n] [true]"]


def test_who_may_not_be_root_is_told_what_root_has_to_do(machine: Machine) -> None:
    done = machine.run("install.sh")
    assert done.returncode == 1
    assert "may not use sudo" in done.stderr and "dockless setup --account" in done.stderr
    assert machine.called() == []


def test_old_python_is_told(machine: Machine) -> None:
    machine.has("python-of-old", "#!/bin/sh\nexit 1\n")
    machine.python = str(machine.programs / "python-of-old")
    done = machine.run("install.sh")
    assert done.returncode == 1
    assert done.stderr.startswith("::error::dockless needs Python 3.11")


def test_copy_of_the_action_alone_cannot_install(machine: Machine) -> None:
    (machine.repository / "dev").unlink()
    done = machine.run("install.sh")
    assert done.returncode == 1
    assert "no checkout of it" in done.stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, "[--] [/t/script]"),
        ({"DOCKLESS_ACTION_SHELL": "python -u {0}"}, "[--] [python] [-u] [/t/script]"),
        ({"DOCKLESS_ACTION_SHELL": "sh -x --file={0}"}, "[--] [sh] [-x] [--file=/t/script]"),
        (
            {"DOCKLESS_ACTION_SERVICES": "redis:7\npostgres:16=db  *"},
            "[--service] [redis:7] [--service] [postgres:16=db] [--service] [*] [--] [/t/script]",
        ),
        ({"DOCKLESS_ACTION_DOCKER": "true"}, "[--docker] [--] [/t/script]"),
        ({"DOCKLESS_ACTION_DOCKER": "false"}, "[--] [/t/script]"),
        ({"DOCKLESS_ACTION_SHELL": "$(touch x) ; {0}"}, "[--] [$(touch] [x)] [;] [/t/script]"),
    ],
)
def test_inputs_become_words_of_the_command(machine: Machine, env: dict[str, str], words: str) -> None:
    machine.has("dockless")
    done = machine.run("step.sh", "/t/script", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.called() == [f"dockless [step] {words}"]


def test_step_is_no_child_of_a_shell(machine: Machine) -> None:
    machine.has("dockless", "#!/bin/sh\necho $$; exit 7\n")
    env = {"PATH": str(machine.programs), "GITHUB_ACTION_PATH": str(machine.action)}
    with subprocess.Popen(["/bin/sh", str(machine.action / "step.sh"), "s"], env=env, stdout=subprocess.PIPE, text=True) as started:
        said, _ = started.communicate(timeout=60)
    assert (int(said), started.returncode) == (started.pid, 7)


def test_hook_ends_the_job_and_is_content_without_dockless(machine: Machine) -> None:
    assert machine.run("end.sh").returncode == 0
    machine.has("dockless")
    assert machine.run("end.sh").returncode == 0
    assert machine.called() == ["dockless [step] [--end]"]


def test_definition_hands_over_every_input_and_no_text_of_a_script() -> None:
    install, step = DEFINITION["runs"]["steps"]
    assert DEFINITION["runs"]["using"] == "composite"
    used = {value.removeprefix("${{ inputs.").removesuffix(" }}") for value in (*step["env"].values(), step["run"])}
    assert used == set(DEFINITION["inputs"])
    assert "${{" not in install["run"] and "${{" not in install["shell"]
    assert step["shell"] == "sh ${{ github.action_path }}/step.sh {0}"
    asked = step_options.parse(["--", "s"], {"DOCKLESS_STEP_IMAGE": "a", "DOCKLESS_STEP_OPTIONS": "--init"})
    assert (asked.image, asked.init) == ("a", True)
    variables = {name for script in ACTION.glob("*.sh") for name in step["env"] if name in script.read_text()}
    assert variables | {"DOCKLESS_STEP_IMAGE", "DOCKLESS_STEP_OPTIONS"} == set(step["env"])


def test_scripts_are_programs() -> None:
    assert all(os.access(ACTION / f"{name}.sh", os.X_OK) for name in ("end", "install", "step"))

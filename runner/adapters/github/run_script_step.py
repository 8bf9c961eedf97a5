"""run_script_step: the hot path; one `run:` or JavaScript step in the job container, with its real exit code."""

from __future__ import annotations

import os

from runner import errors
from runner.adapters.github import identity, message, says, start
from runner.job import step
from runner.sandbox import crun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONTAINER = "job"
GRACE_S = 5.0  # the runner kills us 7.5 s after its first signal


def main(asked: message.Message, work: str, environ: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Run one step. Raises RunnerErrors for everything that is not the script's doing."""
    wanted = message.script(asked.arguments)
    current = identity.prepared(start.surroundings(environ).store, work, environ)
    if CONTAINER not in current.containers:
        raise errors.InfraError("the job has no container in which a step could run")
    argv = message.argv(wanted.entrypoint, wanted.arguments)
    if not argv:
        raise errors.UserError("the step names no program", "is its `shell:` empty?")
    request = step.Request(
        CONTAINER, argv=argv, entrypoint=False, env=wanted.environment, path=wanted.prepend_path, cwd=wanted.working_directory,
        stdin=os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), grace_s=GRACE_S,
    )  # fmt: skip
    try:
        outcome = step.run(current, request)
    except crun.StartFailure as e:
        says.error(e.message, e.hint)
        return e.exit_code, answer(current.key)
    if outcome.oom_killed:
        says.error("the memory limit was reached and a process of the job was killed (OOM)")
    return outcome.exit_code, answer(current.key)


def answer(key: str) -> dict[str, Any]:
    """Return what the runner keeps until the next call, over what a step may have written there: only for people to see."""
    return {"state": {"job": key}}

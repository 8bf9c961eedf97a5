"""`dockless step`: one step of a CI job in the job's container, its exit code; on the hot path, so without click."""

from __future__ import annotations

from runner import log
from runner.adapters.step import run
from runner.cli import step_options, surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run one step in the foreground and return its exit code, or end the job's containers.

    Raises RunnerErrors for what is not its doing.
    """
    asked = step_options.parse(arguments, environ)
    around = surroundings.open_all(environ)
    if asked.end:
        from runner.adapters.step import ending

        ending.end(around, environ)
        return 0
    outcome = run.run(asked, around, environ)
    if outcome.oom_killed:
        log.fail("the memory limit was reached and a process of the container was killed (OOM)", "--memory sets it")
    return outcome.exit_code

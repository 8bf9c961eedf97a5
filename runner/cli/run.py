"""`dockless run`: one container, its exit code; on the hot path, so without click."""

from __future__ import annotations

from runner import log
from runner.cli import run_options, surroundings
from runner.job import oneoff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run one container in the foreground and return its exit code. Raises RunnerErrors for what is not its doing."""
    request = run_options.parse(arguments, environ)
    outcome = oneoff.run(request, surroundings.open_all(environ))
    if outcome.oom_killed:
        log.fail("the memory limit was reached and a process of the container was killed (OOM)", "--memory sets it")
    return outcome.exit_code

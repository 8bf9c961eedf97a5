"""`dockless jenkins agent`: an agent of Jenkins in the foreground, its exit code; stdin and stdout are its channel."""

from __future__ import annotations

from runner import log
from runner.adapters.jenkins import agent
from runner.cli import agent_options, surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run one agent and return its exit code. Raises RunnerErrors for what is not its doing."""
    asked = agent_options.parse(arguments, environ)
    outcome = agent.run(asked, surroundings.open_all(environ), environ)
    if outcome.oom_killed:
        log.fail("the memory limit was reached and a process of the agent was killed (OOM)", "--memory sets it")
    return outcome.exit_code

"""`dockless github hook`: the door for the runner's calls; a line of JSON on stdin, the answer in a file, the rest in the job log."""

from __future__ import annotations

import os
import sys

from runner import errors, log
from runner.adapters.github import message, places, says
from runner.kernel import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

    Verb = Callable[[message.Message, str, Mapping[str, str]], tuple[int, dict[str, Any]]]

_LARGEST = 64 * 1024**2


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Answer one call of the runner and return the exit code: that of the user's own script, where one ran.

    What goes wrong is said as a workflow command. Other exceptions than RunnerErrors are the caller's.
    """
    signals.signal(signals.SIGINT, _interrupted)
    signals.signal(signals.SIGTERM, _interrupted)
    log.configure(stream=sys.stdout, colour=False)
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # a job can put directories in front of ours
    if os.geteuid() == 0:
        says.error(
            "dockless does not run as root", "run the actions runner as an unprivileged user with subordinate ids: `dockless doctor`"
        )
        return 1
    try:
        asked = message.parse(_read())
        work = places.work_directory(asked.response_file, environ)
        code, answer = _verb(asked.command)(asked, work, environ)
        places.respond(asked.response_file, answer)
        return code
    except errors.Bug as e:
        says.error(f"internal error: {e.message}", "this is a bug in dockless: please report it")
        return e.exit_code
    except errors.RunnerError as e:
        says.error(e.message, e.hint)
        return e.exit_code


def _read() -> bytes:
    """Read a message: a line, at whose end the pipe may stay open, or several up to its end, as people write them."""
    found = bytearray()
    while chunk := os.read(0, 1024**2):
        found += chunk
        if len(found) > _LARGEST:
            raise errors.InfraError("the runner's message is larger than 64 MiB")
        if found.endswith(b"\n") and message.is_whole(bytes(found)):
            break
    return bytes(found)


def _interrupted(number: int, _frame: FrameType | None) -> None:
    # what was being made is taken back on the way out; a step that runs has handlers of its own (job.step)
    sys.exit(128 + number)


def _verb(command: str) -> Verb:
    match command:
        case "run_script_step":
            from runner.adapters.github import run_script_step

            return run_script_step.main
        case "prepare_job":
            from runner.adapters.github import prepare_job

            return prepare_job.main
        case "run_container_step":
            from runner.adapters.github import run_container_step

            return run_container_step.main
        case "cleanup_job":
            from runner.adapters.github import cleanup_job

            return cleanup_job.main
    raise errors.InfraError(f"the runner asks for {command[:60]!r}, which this version of dockless does not know", "update dockless")

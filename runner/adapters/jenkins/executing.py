"""`docker exec`, and the `ps` and `kill` of Jenkins' abort, which images need not have."""

from __future__ import annotations

import os
import sys

from runner import errors
from runner.adapters.jenkins import containers, options
from runner.adapters.jenkins.options import Grammar
from runner.job import detached
from runner.job.detached import Execution
from runner.kernel import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.adapters.jenkins.containers import Container
    from runner.adapters.jenkins.shim import Shim

GRAMMAR = Grammar(
    "exec",
    "-d --detach -i --interactive -t --tty -e= --env= --env-file= -u= --user= -w= --workdir=",
    {"--privileged": "no process of a container is the machine's root"},
    mixed=False,
)
# how a `sh` step begins (durable-task); without a terminal nohup does nothing but ignore SIGHUP, and not every image has it
_NOHUP = ("nohup", "sh", "-c")
# docker-workflow's WithContainerStep asks for exactly this, and looks for the cookie of its step in each line
_PS = ("ps", "-A", "-o", "pid,command", "e")


def main(arguments: Sequence[str], shim: Shim) -> int:
    """Run a process in a container and return its exit code. Raises RunnerErrors."""
    parsed = GRAMMAR.parse(arguments)
    if len(parsed.words) < 2:
        raise errors.UserError("docker exec: a container and a command are needed")
    container = containers.get(shim.around, parsed.words[0])
    argv = parsed.words[1:]
    if argv == _PS:
        return _ps(container)
    if argv[0] == "kill" and len(argv) > 1 and all(word.isascii() and word.isdigit() and len(word) < 10 for word in argv[1:]):
        return _kill(container, [int(word) for word in argv[1:]])
    if argv[:3] == _NOHUP and len(argv) == 4 and not parsed.has("tty"):
        signals.signal(signals.SIGHUP, signals.SIG_IGN)  # which crun passes on
        argv = argv[1:]
    request = Execution(
        argv=argv,
        env=options.variables(parsed, shim.environ, verb="exec"),
        cwd=_directory(parsed.last("workdir")),
        user=parsed.last("user"),
        has_stdin=parsed.has("interactive"),
        terminal=parsed.has("tty") and parsed.has("interactive") and os.isatty(0),
        detach=parsed.has("detach"),
    )
    try:
        return detached.execute(container.job, container.record.part, container.record.main, request)
    except errors.UserError as e:
        e.message = e.message.replace("the container is not running", f"container {containers.short(container.record.id)} is not running")
        raise


def _directory(path: str) -> str:
    if path and not path.startswith("/"):
        raise errors.UserError(f"docker exec: working directory {path[:200]} is not an absolute path")
    return path


def _ps(container: Container) -> int:
    """Print each process with its command line and environment, one a line, as procps' ps does."""
    from runner.job import processes

    lines = ["    PID COMMAND"]
    for process in processes.look(container.job, _root(container)):
        words = " ".join((*(process.argv or (f"[{process.comm}]",)), *process.environ))
        lines.append(f"{process.pid:7} {_printable(words)}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _printable(text: str) -> str:
    """Keep what a process says of itself on one line."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _kill(container: Container, pids: list[int]) -> int:
    """Ask processes to end, with the rights that a `kill` in the container would have."""
    from runner.job import processes

    uid = container.job.container(container.record.part).uid
    failed = processes.kill(container.job, _root(container), pids, number=signals.SIGTERM, uid=uid)
    for pid, words in failed.items():
        sys.stderr.write(f"kill: ({pid}) - {words}\n")
    return 1 if failed else 0


def _root(container: Container) -> int:
    if not container.is_running():
        raise errors.UserError(f"container {containers.short(container.record.id)} is not running")
    return container.record.main.pid

"""The process that waits for a job's first Docker client, and then becomes the sidecar's crun.

A program of its own, since whoever prepared the job has memory that nobody should keep. It reads nothing that a client sends: the
sockets go on into the container, with the connections that wait in them. Most jobs never connect, so everything but waiting is imported
when one does.
"""

from __future__ import annotations

import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.job import furnish


def main(first: int, count: int, log_bytes: int) -> None:
    """Wait at `count` listening sockets from descriptor `first` on; stdin is the pickled furnish.Plan of the sidecar. Never returns.

    Of what is printed `log_bytes` are kept, 0 for all.
    """
    poll = select.poll()
    for fd in range(first, first + count):
        poll.register(fd, select.POLLIN)
    poll.poll()
    import pickle

    from runner import errors, log

    log.configure(colour=False)
    try:
        with open(0, "rb", closefd=False) as file:
            plan: furnish.Plan = pickle.load(file)
        _become_sidecar(plan, first, count, log_bytes)
    except errors.RunnerError as e:
        log.fail(f"the Docker API cannot be started: {e.message}", e.hint)
    except OSError as e:
        log.fail(f"the Docker API cannot be started: {e}")
    sys.exit(1)


def _become_sidecar(plan: furnish.Plan, first: int, count: int, log_bytes: int) -> None:
    from runner.job import furnish, log_bound
    from runner.kernel import files, process, syscalls
    from runner.sandbox import crun

    furnish.add(plan)
    (container,) = plan.containers
    home, step_id = furnish.bundle(container.asked.name), f"{container.asked.name}.0"
    bundle = f"{home}/{step_id}"
    os.mkdir(bundle, 0o755)
    files.write_json(f"{bundle}/config.json", files.read_json(f"{home}/base.json"), durable=False)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    output = log_bound.pipe(1, log_bytes)
    for fd in (1, 2):
        os.dup2(output, fd)
    for fd in range(first, first + count):
        os.set_inheritable(fd, True)
    syscalls.close_range(first + count)
    os.execve(crun.PROGRAM, crun.run_argv(bundle, step_id, preserve_fds=count), process.minimal_env())

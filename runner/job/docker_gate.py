"""The process that waits for a job's first Docker client, and then becomes the sidecar's crun.

A program of its own, since whoever prepared the job has memory that nobody should keep. It reads nothing that a client sends: the
sockets go on into the container, with the connections that wait in them.
"""

import os
import pickle
import select
import sys

from runner import errors, log
from runner.job import furnish
from runner.job.docker import CONTAINER, FIRST_LISTENER
from runner.kernel import files, process, syscalls
from runner.sandbox import crun


def main(listeners: int) -> None:
    """Wait at the listening sockets; stdin is the pickled furnish.Plan of the sidecar. Never returns."""
    log.configure(colour=False)
    poll = select.poll()
    for fd in range(FIRST_LISTENER, FIRST_LISTENER + listeners):
        poll.register(fd, select.POLLIN)
    poll.poll()
    try:
        with open(0, "rb", closefd=False) as file:
            plan: furnish.Plan = pickle.load(file)
        _become_sidecar(plan, listeners)
    except errors.RunnerError as e:
        log.fail(f"the Docker API cannot be started: {e.message}", e.hint)
    except OSError as e:
        log.fail(f"the Docker API cannot be started: {e}")
    sys.exit(1)


def _become_sidecar(plan: furnish.Plan, listeners: int) -> None:
    furnish.add(plan)
    home = furnish.bundle(CONTAINER)
    bundle = f"{home}/{CONTAINER}.0"
    os.mkdir(bundle, 0o755)
    files.write_json(f"{bundle}/config.json", files.read_json(f"{home}/base.json"), durable=False)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    for fd in range(FIRST_LISTENER, FIRST_LISTENER + listeners):
        os.set_inheritable(fd, True)
    syscalls.close_range(FIRST_LISTENER + listeners)
    argv = crun.run_argv(bundle, f"{CONTAINER}.0", preserve_fds=listeners)
    os.execve(crun.PROGRAM, argv, process.minimal_env())

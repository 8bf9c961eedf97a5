"""One step: into the container that an earlier step of the job has made, or into a new one. On the hot path."""

from __future__ import annotations

import os

from runner.adapters.step import caller, environment, key, places
from runner.job import state, step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.adapters.step.asked import Asked
    from runner.job.surroundings import Surroundings
    from runner.model import Outcome

CONTAINER = "step"
# the runner sends SIGINT, and SIGTERM after 7.5 s; what does not end in this time is killed (two more seconds are left for our own end)
_GRACE_S = 5.0
# what the runner itself would take for a step without `shell:`
_DEFAULT_SHELL = 'if command -v bash >/dev/null 2>&1; then exec bash -e "$0"; else exec sh -e "$0"; fi'


def run(asked: Asked, around: Surroundings, environ: Mapping[str, str]) -> Outcome:
    """Run one step and return how it ended; its container stays for the next. Moves this process into the job: call once.

    Raises RunnerErrors; crun.StartFailure when the program cannot be started.
    """
    environment.check(environ)
    worker = caller.find(environ)
    volumes = places.volumes(environ, asked.volumes, tools=asked.tools, state_dir=around.store.root)
    cwd = places.working_directory(asked.cwd, volumes)
    home = places.make_home(environ)
    name = key.make(environ, worker.process, asked, volumes)
    current = state.load(around.store, name)
    if current is None or not current.keeper.pid or not current.keeper.is_alive():
        from runner.adapters.step import making  # the first step of a job pays for it

        current = making.make(asked, around, environ, key=name, worker=worker.process, volumes=volumes, lost=current is not None)
    own = dict(asked.env)
    variables = {"HOME": home, **environment.for_step(environ, worker.environ), **own}
    request = step.Request(
        CONTAINER,
        argv=command(asked.argv, temporary=environ["RUNNER_TEMP"]),
        entrypoint=False,
        env=tuple(variables.items()),
        path=() if "PATH" in own else environment.path_first(environ, worker.environ),
        cwd=cwd,
        grace_s=_GRACE_S,
    )
    return step.run(current, request)


def command(argv: tuple[str, ...], *, temporary: str) -> tuple[str, ...]:
    """Return what to run: a script of the runner's alone, which says no interpreter, is run by bash where there is one, else by sh."""
    if len(argv) == 1 and argv[0].startswith(f"{temporary.rstrip('/')}/") and os.path.isfile(argv[0]) and not os.access(argv[0], os.X_OK):
        return ("sh", "-c", _DEFAULT_SHELL, argv[0])
    return argv

"""`dockless step --end`: end the containers of a job's steps before the reaper does, and give back what they left in the workspace."""

from __future__ import annotations

import functools
import os

from runner import errors, log
from runner.adapters.step import caller, environment, key
from runner.job import cleanup, gc, services, state
from runner.kernel import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.job.surroundings import Surroundings
    from runner.model import BuildUser

_OVERFLOW = 65534  # what ids that are not mapped look like, besides one that is (user_namespaces(7))


def end(around: Surroundings, environ: Mapping[str, str]) -> None:
    """End every container of the job's steps. Idempotent; content with a job that has none.

    Goes on past errors and raises the first.
    """
    environment.check(environ)
    store = around.store
    prefix = key.prefix(environ, caller.find(environ).process)
    left: set[BuildUser] = set()
    first: errors.RunnerError | None = None
    for name in [name for name in state.keys(store) if name.startswith(prefix)]:
        try:
            current = state.load(store, name)
        except errors.RunnerError as e:
            log.debug(f"{e}")
            current = None
        if current:
            left.add(current.build_user)
            _show_logs(around, current)
        try:
            cleanup.cleanup(store, name, around.account)
        except errors.RunnerError as e:
            first = first or e
    for user in left:
        for name in ("RUNNER_WORKSPACE", "GITHUB_WORKSPACE", "RUNNER_TEMP"):
            if environ.get(name):
                userns.call(user.keeper_map(around.account), functools.partial(give_back, environ[name]))
    gc.reap(store, around.account)
    if first:
        raise first


def _show_logs(around: Surroundings, current: state.JobState) -> None:
    for name, container in current.containers.items():
        output = services.log_tail(around.store, current.key, name) if container.is_service else ""
        if output:
            log.say(f"::group::Log of service {container.aliases[0]} ({container.image})\n{output.rstrip()}\n::endgroup::")


def give_back(top: str) -> int:
    """Make every file below a directory that belongs to another user of the namespace its root's; return how many.

    Runs as root of the job's namespace, whose root is the account. Follows nothing.
    """
    given = 0
    for _, directories, names, fd in os.fwalk(top, onerror=None):
        for name in (*directories, *names):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if info.st_uid not in (0, _OVERFLOW):
                    os.chown(name, 0, 0, dir_fd=fd, follow_symlinks=False)
                    given += 1
            except OSError as e:
                log.debug(f"{name} stays whose it is: {e.strerror}")
    return given

"""cleanup_job: end the job, with a last look at its services' logs. Idempotent, and content with a job that was never made."""

from __future__ import annotations

from runner import errors
from runner.adapters.github import identity, leftovers, message, services, start
from runner.job import cleanup, gc, settle, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def main(asked: message.Message, work: str, environ: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """End this runner's job, whatever its state says. Raises RunnerErrors after trying everything."""
    around = start.surroundings(environ)
    key = identity.key(work)
    try:
        current = state.load(around.store, key)
    except errors.RunnerError:
        current = None  # damaged, or another version's: it is ended all the same
    for name in [each.name for each in current.containers.values() if each.is_service] if current else ():
        services.show_log(current, name, around.store)  # type: ignore[arg-type]  # there are none without one
    cleanup.cleanup(around.store, key, around.account)
    if current:
        leftovers.give_back(current.build_user, around, work, environ)
    gc.reap(around.store, around.account)
    settle.settle_old(around.store)
    return 0, {}

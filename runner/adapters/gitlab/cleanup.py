"""`gitlab cleanup`: end the job, keep its caches. Idempotent, and content with a job that was never prepared."""

from __future__ import annotations

from runner import layout
from runner.adapters.gitlab import environment, privileges, start
from runner.job import cleanup, gc, settle
from runner.kernel import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """End this attempt's job, if there is one, and what crashed ones left. Raises RunnerErrors after trying everything."""
    for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP):
        signals.signal(number, signals.SIG_IGN)  # nobody would end the job in our place
    key, root = environ.get(environment.JOB, ""), environ.get(environment.STATE_DIR, "")
    if key and root:
        # where `config` found the job's place: the configuration may say another thing by now, or be broken
        account = privileges.drop(environ.get(environment.ACCOUNT, ""))
        store = layout.open_store(root)
        cleanup.cleanup(store, key, account)
    else:
        store, _, account = start.surroundings(environ)
    gc.reap(store, account)
    settle.settle_old(store)
    return 0

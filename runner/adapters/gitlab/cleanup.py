"""`gitlab cleanup`: end the job, keep its caches. Idempotent, and content with a job that was never prepared."""

from collections.abc import Mapping

from runner.adapters.gitlab import environment, start
from runner.job import cleanup, gc


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """End this attempt's job, if there is one, and what crashed ones left. Raises RunnerErrors after trying everything."""
    around = start.surroundings(environ)
    key = environ.get(environment.JOB, "")
    if key:
        cleanup.cleanup(around.store, key, around.account)
    gc.reap(around.store, around.account)
    return 0

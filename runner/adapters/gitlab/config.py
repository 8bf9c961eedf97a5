"""`gitlab config`: what gitlab-runner asks first. Prints one JSON document and chooses the job's key; makes nothing."""

from __future__ import annotations

import os
import sys

from runner import __version__
from runner.adapters.gitlab import caller, environment, start, volumes
from runner.kernel import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Print the answer to config_exec (executors/custom/api/config.go). Raises RunnerErrors."""
    chain = caller.ancestors()
    around = start.surroundings(environ)
    gitlab = around.settings.gitlab
    job_variables = environment.variables(environ)
    answer = {
        "driver": {"name": "dockless", "version": __version__},
        "builds_dir": gitlab.builds_dir,
        "cache_dir": gitlab.cache_dir,
        # then the runner gives every job that runs side by side with others a directory of its own
        "builds_dir_is_shared": volumes.builds_are_shared(around.settings, job_variables),
        # the runner hands these to the later verbs, where no job variable can change them
        "job_env": {
            environment.JOB: job_key(job_variables),
            environment.STATE_DIR: around.store.root,
            environment.ACCOUNT: around.account.name,
            environment.CALLER: caller.write(chain),
        },
    }
    if gitlab.hostname:
        answer["hostname"] = gitlab.hostname
    sys.stdout.write(plain_json.dumps(answer) + "\n")
    return 0


def job_key(job_variables: Mapping[str, str]) -> str:
    """Return a new key. The random part makes every attempt another job, so that an attempt's clean-up ends nothing but its own."""
    number = job_variables.get("CI_JOB_ID", "")
    known = number if number.isascii() and number.isdigit() and len(number) < 20 else "0"
    return f"gitlab-{known}-{os.urandom(4).hex()}"

"""`./dev soak`: a long run, its summary as JSON; the exit code is 1 if a job failed that was left alone, or something is left.

python -m tests.soak [--jobs 500] [--seconds 1800] [--seed N] [--together 4] [--attacked 0.3]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from runner.kernel import accounts, files, userns
from runner.sandbox import build_users
from tests.soak import soak


def main(arguments: list[str]) -> int:
    """Run a soak in a directory of its own and print its summary."""
    parser = argparse.ArgumentParser(prog="tests.soak", description="play many jobs in one store, and attack some of them")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=1800, help="no job begins after so many")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the order of jobs and of what happens to them")
    parser.add_argument("--together", type=int, default=4, help="how many jobs run at once")
    parser.add_argument("--attacked", type=float, default=0.3, help="the share of jobs to which something happens")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dockless-soak-") as directory:
        shop = soak.workshop(Path(directory, "soak"))
        try:
            summary = soak.run(
                shop, count=asked.jobs, seconds=asked.seconds, seed=asked.seed, together=asked.together, attacked=asked.attacked
            )
        finally:  # parts of it belong to build users
            userns.call(build_users.every_map(accounts.current()), lambda: files.remove_tree(str(shop.root)))
    print(json.dumps(summary, indent=1))
    return 1 if summary["errors"] or summary["leftovers"] or summary["jobs"] != asked.jobs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

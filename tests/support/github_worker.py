"""Stands for the runner's worker: a process that lives as long as a job and starts its steps, one JSON request a line.

It has an environment of its own, as the worker has: that of the host, without anything of the job.
"""

import json
import os
import signal
import subprocess
import sys


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        with open(request["output"], "wb") as output:
            step = subprocess.Popen(
                request["argv"], env=request["env"], cwd=request["cwd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            print(step.pid, flush=True)
            code = step.wait()
        print(code, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's ^C in the terminal of the tests
    assert os.environ.get("GITHUB_RUN_ID") is None
    main()

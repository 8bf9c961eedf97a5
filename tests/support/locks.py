"""Another process that holds a lock."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from runner.kernel import locks
with locks.hold(sys.argv[1], shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that holds a lock until it is told to stop or is killed."""

    def __init__(self, path: Path, kind: str = "exclusive") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

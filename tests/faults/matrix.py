"""The whole matrix of faults: every command, everything that can happen at every boundary of it; takes its time.

    python -m tests.faults.matrix [SCENARIO...] [--every N] [--what KILL|ENOSPC|EIO|EDQUOT]

Prints a line for each cell that left something or failed, and the size of the matrix; the exit code is 1 if there was one.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import scenarios
from tests.faults.scenarios import SCENARIOS, Rig


def main(arguments: list[str]) -> int:
    """Try what was asked for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="matrix")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--what", default="")
    asked = parser.parse_args(arguments)
    cells = missed = bad = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dockless-matrix-") as directory, scenarios.registry() as registry:
        for name in asked.scenarios or SCENARIOS:
            rig = Rig(name, Path(directory), registry)
            wanted = [fault for fault in rig.faults if asked.what in ("", fault.what)][:: asked.every]
            for fault in wanted:
                wrong = rig.try_(fault)
                cells += 1
                missed += wrong is None
                bad += bool(wrong)
                for sentence in wrong or ():
                    print(f"{name}: {fault}: {sentence}", flush=True)
            rig.close()
            print(f"{name}: {len(wanted)} of {len(rig.faults)} cells tried ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{cells} cells, of which {missed} did not come to pass; {bad} left something or failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

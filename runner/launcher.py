"""Writing the `dockless` program: a start-up without site-packages' own hooks, which would cost as much as a step.

`python -I -S` ignores the caller's environment and directory (a job may have chosen both) and skips `site`; the paths it would have
found are written into the launcher instead.
"""

import os
import sys
import sysconfig

_TEMPLATE = """#!{python} -IS
import sys
sys.path += {paths!r}
from runner.__main__ import main
main()
"""


def write(target: str, python: str) -> None:
    """Write an executable `target` that runs the dockless of this file with the interpreter `python`."""
    tree = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    paths = list(dict.fromkeys((tree, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))))
    with open(target, "w", encoding="utf-8") as file:
        file.write(_TEMPLATE.format(python=python, paths=paths))
    os.chmod(target, 0o755)


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])

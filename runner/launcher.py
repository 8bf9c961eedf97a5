"""Writing the `dockless` program: a start-up without site-packages' own hooks, which would cost as much as a step.

`python -I -S` ignores the caller's environment and directory (a job may have chosen both) and skips `site`; the paths it would have
found are written into the launcher instead, and beside it what the hot commands import.
"""

from __future__ import annotations

import os
import sys
import sysconfig

from runner import bundle
from runner.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_TEMPLATE = """#!{python} -IS
import sys
sys.path += {paths!r}
{start}
from runner.__main__ import main
{before}main()
"""

# what the commands of every job import, in files of their own: half of what `run` needs a stage does not
_HOT = {
    # which of them is called, only the runner's message says
    "github": "runner.adapters.github.hook, runner.adapters.github.run_script_step, runner.adapters.github.prepare_job, "
    "runner.adapters.github.cleanup_job, runner.adapters.github.run_container_step, runner.job.assembly, runner.image.access",
    "gitlab": "runner.adapters.gitlab.run",
    "job": "runner.adapters.gitlab.config, runner.adapters.gitlab.prepare, runner.adapters.gitlab.cleanup, "
    "runner.job.assembly, runner.image.access, runner.job.docker_spec",
    "step": "runner.cli.step",
    "run": "runner.cli.run, runner.image.images, runner.job.assembly",
}
_DOCKER = (
    "runner.cli.surroundings, runner.adapters.jenkins.docker_command, runner.adapters.jenkins.run, runner.adapters.jenkins.executing, "
    "runner.adapters.jenkins.ending, runner.adapters.jenkins.inspecting, runner.adapters.jenkins.looking, runner.job.processes, "
    "runner.image.images, runner.job.assembly"
)
_MAKE = """import sys
sys.path += {paths!r}
import runner.__main__, {hot}
hot = [(m.__name__, m.__file__) for m in sys.modules.values() if m.__name__.partition(".")[0] in ("runner", "__future__")]
from runner import bundle
sys.stdout.buffer.write(bundle.content(hot))
"""


def write(target: str, python: str) -> None:
    """Write an executable `target` that runs the dockless of this file with the interpreter `python`, and beside it its bundles."""
    gitlab = '(".gitlab" if "run" in sys.argv else ".job")'
    choice = f'".github" if "github" in sys.argv else {gitlab} if "gitlab" in sys.argv else ".step" if "step" in sys.argv else ".run"'
    _write(target, python, _HOT, libraries=(sysconfig.get_path("purelib"), sysconfig.get_path("platlib")), choice=choice, before="")


def write_docker(target: str, python: str, arguments: Sequence[str]) -> None:
    """Write an executable `target` like `write`, which is the command `docker`: its words come after `arguments` of dockless."""
    # where we have our own libraries from: sysconfig does not know, for without `site` an interpreter does not know its environment
    libraries = [path for path in sys.path if path.endswith("-packages")]
    before = f"sys.argv[1:1] = {list(arguments)!r}\n"
    _write(target, python, {"modules": _DOCKER}, libraries=libraries, choice='".modules"', before=before)


def _write(target: str, python: str, hot: Mapping[str, str], *, libraries: Iterable[str], choice: str, before: str) -> None:
    target = os.path.abspath(target)
    tree = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    paths = list(dict.fromkeys((tree, *libraries)))
    for name, modules in hot.items():
        # code without the columns that tracebacks underline is loaded in less time
        made = process.run([python, "-IS", "-X", "no_debug_ranges", "-c", _MAKE.format(paths=paths, hot=modules)])
        with open(f"{target}.{name}", "wb") as bundled:
            bundled.write(made.stdout)
    start = bundle.START.format(path=f"{target!r} + ({choice})")
    with open(target, "w", encoding="utf-8") as file:
        file.write(_TEMPLATE.format(python=python, paths=paths, start=start, before=before))
    os.chmod(target, 0o755)


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])

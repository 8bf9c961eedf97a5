"""Which directories of the runner a step sees, at the same paths as outside: then no path has to be translated."""

from __future__ import annotations

import os

from runner.errors import UserError
from runner.model import VolumeSpec
from runner.record import NamedTuple
from runner.sandbox import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# the runner reads these files after the step, at the same path: what is written has to be theirs, not a copy's
_FILES = (
    "GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY", "GITHUB_ARTIFACTS", "GITHUB_ARTIFACTS_LIST",
)  # fmt: skip
HOME = "_dockless_home"  # below RUNNER_TEMP, which the runner empties before each job


class Place(NamedTuple):
    """A directory that is shown."""

    path: str
    read_only: bool = False


def wanted(environ: Mapping[str, str], *, tools: str = "") -> list[Place]:
    """Return what a step should see, outermost first and without what lies in another one. `tools` "rw" opens the tool cache."""
    workspace = environ.get("RUNNER_WORKSPACE", "")
    files = [os.path.dirname(environ.get(name, "")) for name in _FILES]
    read_only = [
        environ.get("RUNNER_TOOL_CACHE", ""),
        # beside the workspace are the actions of the job; a composite one finds its own files there
        f"{os.path.dirname(workspace)}/_actions" if workspace else "",
        environ.get("GITHUB_ACTION_PATH", ""),
        os.path.dirname(environ.get("GITHUB_EVENT_PATH", "")),
    ]
    writable = [workspace, environ.get("GITHUB_WORKSPACE", ""), environ.get("RUNNER_TEMP", ""), *files]
    if tools == "rw":
        writable.append(read_only[0])
    asked = [Place(_plain(path)) for path in writable if path] + [Place(_plain(path), True) for path in read_only if path]
    found: list[Place] = []
    for place in sorted(asked):  # what can be written to comes first
        if not any(mounts.is_within(place.path, other.path) and other.read_only <= place.read_only for other in found):
            found.append(place)
    return found


def _plain(path: str) -> str:
    return os.path.normpath(path)


def volumes(environ: Mapping[str, str], asked: tuple[str, ...], *, tools: str, state_dir: str) -> tuple[VolumeSpec, ...]:
    """Return the volumes of a step's container: the runner's directories as far as they exist, then `asked`, which may replace them.

    UserError for those that no container may see.
    """
    found = {}
    for place in wanted(environ, tools=tools):
        if not os.path.isdir(place.path):
            continue
        # the kernel tells the working directory by its real path
        for path in (place.path, os.path.realpath(place.path)):
            target = mounts.check_target(path, path)
            found[target] = VolumeSpec(target, "bind", mounts.check_source(path, path, state_dir=state_dir), place.read_only)
    for volume in mounts.parse_all(asked, state_dir=state_dir, cwd=environ.get("GITHUB_WORKSPACE", "")):
        found[volume.target] = volume
    return tuple(found.values())


def working_directory(asked: str, shown: tuple[VolumeSpec, ...]) -> str:
    """Return the directory in the container where a step begins: `asked`, or ours. UserError if ours is not shown there."""
    try:
        own = os.getcwd()
    except FileNotFoundError as e:
        raise UserError("step: the working directory does not exist any more", "an earlier step has removed it") from e
    if asked:
        return os.path.normpath(os.path.join(own, asked))
    if not any(mounts.is_within(own, volume.target) for volume in shown):
        raise UserError(
            f"step: the working directory {own} is not in sight of the container",
            "choose one below GITHUB_WORKSPACE, show it with --volume, or name one of the image's with --workdir",
        )
    return own


def make_home(environ: Mapping[str, str]) -> str:
    """Return the directory that is HOME of all steps of the job, made when it is missing. Idempotent."""
    path = f"{environ['RUNNER_TEMP'].rstrip('/')}/{HOME}"
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as e:
        raise UserError(f"step: {path} cannot be made: {e.strerror}", "RUNNER_TEMP is the runner's own, and writable for it") from e
    return path

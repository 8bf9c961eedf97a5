"""Writing the `docker` command of Jenkins Pipelines: a launcher with its own bundle, which knows where this dockless keeps its things."""

from __future__ import annotations

import os
import sys

from runner import errors, launcher, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MARK = b"jenkins"  # what every launcher of ours has in its arguments


def install(directory: str, environ: Mapping[str, str], *, roots: tuple[str, ...], build_user: str) -> int:
    """Write DIR/docker; replaces one of ours. UserError for a directory that cannot be written, or that has somebody else's docker."""
    target = f"{os.path.abspath(directory)}/docker"
    try:
        paths.component(build_user)
    except ValueError as e:
        raise errors.UserError(f"build user {build_user[:80]!r} cannot be used", "letters, digits, dots, hyphens and underscores") from e
    for root in roots:
        if not os.path.isdir(root):
            raise errors.UserError(f"directory {root} does not exist", "name the agent's remote root and its caches")
    _refuse_foreign(target)
    arguments = [f"--{name}={environ[variable]}" for name, variable in _OPTIONS if environ.get(variable, "")]
    arguments += ["jenkins", "docker", f"--build-user={build_user}", *(f"--root={os.path.realpath(root)}" for root in roots), "--"]
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        launcher.write_docker(target, sys.executable, arguments)
    except OSError as e:
        raise errors.UserError(f"{target} cannot be written: {e.strerror}", "name a directory of the agent's account") from e
    print(f"{target} is there: put {os.path.dirname(target)} first on the PATH of the agent's node")
    return 0


_OPTIONS = (("config", "DOCKLESS_CONFIG"), ("state-dir", "DOCKLESS_STATE"))


def _refuse_foreign(target: str) -> None:
    try:
        with open(target, "rb") as file:
            is_ours = _MARK in file.read(4096)
    except FileNotFoundError:
        return
    except OSError as e:
        raise errors.UserError(f"{target} cannot be read: {e.strerror}", "name a directory of the agent's account") from e
    if not is_ours:
        raise errors.UserError(f"{target} is there already and is not dockless's", "name a directory of its own for it")

"""Files of a job in the runner's directories that its containers wrote as others than the account: the runner has to delete them."""

from __future__ import annotations

from runner import errors
from runner.adapters.github import places, says
from runner.job import reclaim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.job.surroundings import Surroundings
    from runner.model import BuildUser


def give_back(user: BuildUser, around: Surroundings, work: str, environ: Mapping[str, str]) -> None:
    """Give the account what is a build user's in workspace, `_temp` and `_actions`. Never raises: what stays is a warning."""
    for path in (environ.get("RUNNER_WORKSPACE", ""), f"{work}/_temp", f"{work}/_actions"):
        if not places.within(path, work):
            continue
        try:
            reclaim.reclaim(places.beneath(work, path, make=True), around.account, user)
        except (errors.RunnerError, OSError) as e:
            says.warning(f"files in {path} may not be the runner's to delete: {e}")

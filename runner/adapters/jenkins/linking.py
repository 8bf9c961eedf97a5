"""`docker run --link`: a container in the job, and so in the network, of another one, which it reaches under the names that it has.

Both are one machine to each other, as containers of a Kubernetes pod are: a port can be listened to once.
"""

from __future__ import annotations

from runner import errors
from runner.adapters.jenkins import containers
from runner.job import assembly, state
from runner.kernel import locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.adapters.jenkins.run_plan import Plan
    from runner.job.prepare import Fetch
    from runner.job.state import JobState
    from runner.job.surroundings import Surroundings


def start(plan: Plan, around: Surroundings, *, fetch: Fetch, begin: Callable[[JobState], JobState]) -> None:
    """Add the container to the job of those that it is linked to, and start it. UserError when they are not of one job, or do not run."""
    linked = [containers.get(around, name) for name, _ in plan.links]
    keys = {each.job.key for each in linked}
    if len(keys) > 1:
        raise errors.UserError(
            "docker run: the containers of several --link have networks of their own: start the second of them with --link to the first"
        )
    if plan.network == "none":
        raise errors.UserError("docker run: --link and --network=none exclude each other")
    (key,) = keys
    with locks.hold(around.store.job_lock(key), timeout_s=600):
        current = state.load(around.store, key)
        if current is None or not current.keeper.is_alive():
            raise errors.UserError(f"docker run: container {plan.links[0][0][:80]} is not running")
        if plan.shared != (current.shared_id, current.shared_gid):
            raise errors.UserError(
                "docker run: a container of --link has the ids of the one that it joins: give both the same -u UID:GID, "
                "and the sidecar no mounts that it can write to"
            )
        names = (plan.hostname, *(alias for _, alias in plan.links if alias), *containers.names(current))
        added = assembly.add(
            current, plan.container, around, names=tuple(dict.fromkeys(names)), extra_hosts=plan.hosts, fetch=fetch
        )  # fmt: skip
        state.save(around.store, added)
        state.save(around.store, begin(added))

"""The Docker API of a job: how soon it is there, what it costs who does not use it, and what it holds; against a dockerd of the host's."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from benchmarks import builds, processes
from benchmarks.docker import CLIENT, Docker
from benchmarks.dockless import NO_DOCKER, Dockless, docker_by
from benchmarks.measure import Measured, Result, alternate, median, quartiles, ratio, show, span, timed
from benchmarks.warm import STAGES, check, standing_job, whole_job

_PROJECT = 8
_NO_DOCKERD = "dockerd does not start here"
_VERSION = f"{CLIENT} version"


def cold(dockless: Dockless, docker: Docker | None, *, rounds: int) -> Measured:
    """Ask for the first time in a job, and start the host's dockerd until it has answered; both have run before."""
    names = {"podman": "docker_api_cold_vs_dockerd", "dockerd": "docker_api_cold_dockerd_vs_dockerd"}
    if docker is None:
        return Measured(missing=dict.fromkeys(names.values(), _NO_DOCKERD))

    def ours(engine: str) -> float:
        with standing_job(dockless, builds.TOOLBOX, project=_PROJECT, docker=docker_by(engine)) as attempt:
            return check(attempt, attempt.stage("build_script", [_VERSION])).seconds

    def theirs() -> float:
        docker.stop()
        return docker.start()

    samples = alternate({**{engine: partial(ours, engine) for engine in names}, "host": theirs}, rounds=rounds)
    what = "the first `docker version` of a job, by {} / starting a rootless dockerd until it has answered its first `docker version`"
    return Measured(
        tuple(
            ratio(names[engine], what.format(engine), samples[engine], samples["host"], label="dockerd", target=target)
            for engine, target in (("podman", 1.0), ("dockerd", 2.0))
        )
    )


def unused(dockless: Dockless, image: str, *, rounds: int) -> Measured:
    """Play whole GitLab jobs that have an API and never connect, and jobs that have none."""
    sides = {"provide": docker_by("podman"), "off": NO_DOCKER}
    samples = alternate({name: partial(whole_job, dockless, image, docker=docker) for name, docker in sides.items()}, rounds=rounds)
    provided, off = samples["provide"], samples["off"]
    cost_ms = (median(provided) - median(off)) * 1000
    job = f"a GitLab job of {len(STAGES)} stages"
    what = f"what {job} takes longer that never uses its Docker API, in ms ({show(median(provided))}, without one {show(median(off))})"
    return Measured((Result("docker_unused_cost_ms", what, cost_ms, 10.0, f"{cost_ms:.1f} ms", "", f"{span(provided)} / {span(off)}"),))


def memory(dockless: Dockless, docker: Docker | None, scratch: Path, *, rounds: int) -> Measured:
    """Add up what an engine holds that has answered, run a container and built an image, in a job and on the host.

    Resident memory, and so what processes share is counted in each: here that is against the sidecar, which has more of them.
    """
    name = "docker_api_rss_vs_dockerd"
    if docker is None:
        return Measured(missing={name: _NO_DOCKERD})
    held: dict[str, list[float]] = {"job": [], "host": []}
    shown: list[str] = []
    directory = scratch / "memory"
    directory.mkdir()
    timed(["sh", "-euc", f"cd {directory}\n{builds.MAKE_BASE}"], docker.environ)
    docker.run("import", str(directory / "base.tar"), builds.BASE)
    for _ in range(rounds):
        with standing_job(dockless, builds.TOOLBOX, project=_PROJECT, docker=docker_by("podman")) as attempt:
            builds.import_base(attempt)
            check(attempt, attempt.stage("build_script", [_VERSION, f"{CLIENT} run --rm {builds.BASE} true"]))
            builds.build_new(attempt)
            total, shown = _settled(lambda: _sidecars(dockless.keepers()))
            held["job"].append(total)
        docker.stop()
        docker.start()
        docker.run("run", "--rm", builds.BASE, "true")
        timed(docker.argv("build", str(builds.new_context(directory))), docker.environ, longest_s=builds.LONGEST_S)
        total, _ = _settled(lambda: {pid for pid in docker.processes() if processes.command(pid) in ("dockerd", "containerd")})
        held["host"].append(total)
    used = {side: f"{median(totals):.0f} MB" for side, totals in held.items()}
    spread = " / ".join("–".join(f"{each:.0f}" for each in quartiles(totals)) + " MB" for totals in held.values())
    what = f"resident memory of a job's API (podman) after a run and a build ({', '.join(shown)}) / of dockerd and containerd"
    number = median(held["job"]) / median(held["host"])
    return Measured((Result(name, what, number, 1.0, used["job"], f"dockerd {used['host']}", spread),))


def _sidecars(keepers: Iterable[int]) -> set[int]:
    """Return the processes of the APIs of some jobs: all that is in a job but not below its keeper, as its way out is."""
    found = set()
    for keeper in keepers:
        found |= processes.with_descendants(processes.sharing_namespace(keeper) - processes.with_descendants([keeper]))
    return found


def _settled(find: Callable[[], set[int]]) -> tuple[float, list[str]]:
    """Return what processes hold in MB, and what each does, as soon as none has come or gone for a while."""
    deadline = time.monotonic() + 30
    pids = find()
    while True:
        time.sleep(1)
        before, pids = pids, find()
        if pids == before:
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"these come and go for ever: {', '.join(processes.command(pid) for pid in pids)}")
    held = {pid: processes.resident_bytes(pid) / 1e6 for pid in pids}
    if not held:
        raise SystemExit("an engine that has just built something is not found")
    return sum(held.values()), sorted(f"{processes.command(pid)} {size:.0f}" for pid, size in held.items())

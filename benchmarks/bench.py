"""`./dev bench`: dockless against podman and docker, and against itself, in one run; writes results.json, RESULTS.md and results.svg.

python -m benchmarks.bench PROGRAM SCRATCH CACHE RESULTS [--only NAME,…] [ROUNDS]

SCRATCH is where everything is made; state/ in it may be set up by root. CACHE keeps the big image. RESULTS gets the three files.
With --only nothing is written: figures that stand side by side have to come from one run.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks import builds, crowd, docker_api, hooks, images, plot, processes, pulls, report, shim, tenants, warm
from benchmarks.docker import Docker, NotStarted
from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, timed
from benchmarks.podman import Podman
from runner import __version__
from tests.support.registries import docker_registry

ROUNDS = 20


class Prepared(NamedTuple):
    """What measurements work with."""

    rounds: int
    dockless: Dockless
    podman: Podman
    docker: Docker | None  # where it starts
    peers: Mapping[str, warm.Peer]  # podman, and what else there is
    made: images.Made
    host: str  # the registry
    scratch: Path

    @property
    def small(self) -> str:
        return f"{self.host}/{images.SMALL}"

    @property
    def slow_rounds(self) -> int:
        """How often to measure what takes many seconds."""
        return max(1, self.rounds // 6)


class Group(NamedTuple):
    """Numbers that are measured together."""

    names: tuple[str, ...]
    measure: Callable[[Prepared], Measured]


# in this order: first what needs a small image only, and few containers at a time
_GROUPS = (
    Group(("run_vs_podman", "run_vs_docker"), lambda p: warm.one_off(p.dockless, p.small, p.peers, rounds=p.rounds)),
    Group(("step_vs_podman_exec", "step_vs_docker_exec"), lambda p: warm.step(p.dockless, p.small, p.peers, rounds=p.rounds)),
    Group(("job_vs_podman", "job_vs_docker"), lambda p: warm.job(p.dockless, p.small, p.peers, rounds=max(1, p.rounds // 3))),
    Group(("hook_step_vs_podman",), lambda p: hooks.step(p.dockless, p.podman, p.small, p.scratch, rounds=p.rounds)),
    Group(("hook_prepare_vs_podman",), lambda p: hooks.prepare(p.dockless, p.podman, p.small, p.scratch, rounds=max(1, p.rounds // 2))),
    Group(("docker_unused_cost_ms",), lambda p: docker_api.unused(p.dockless, p.small, rounds=3 * p.rounds)),
    Group(
        ("shim_exec_vs_docker_cli", "shim_run_vs_docker_cli"),
        lambda p: shim.commands(p.dockless, p.podman, p.small, p.scratch, rounds=p.rounds),
    ),
    Group(("idle_job_private_mb",), lambda p: crowd.idle_memory(p.dockless, p.small)),
    Group(("job100_vs_job1",), lambda p: crowd.side_by_side(p.dockless, p.small, rounds=p.rounds)),
    Group(
        ("pull_vs_podman", "pull_vs_slowest_part", "pull_vs_processors"),
        lambda p: pulls.cold(p.dockless, p.podman, p.made, p.host, p.scratch, rounds=p.slow_rounds),
    ),
    Group(("pull_half_vs_podman",), lambda p: pulls.half(p.dockless, p.podman, p.made, p.host, rounds=p.slow_rounds)),
    Group(("second_tenant_vs_warm", "second_tenant_new_mib"), lambda p: tenants.second(p.dockless, p.made, p.host, rounds=p.rounds)),
    Group(
        ("docker_api_cold_vs_dockerd", "docker_api_cold_dockerd_vs_dockerd"),
        lambda p: docker_api.cold(p.dockless, p.docker, rounds=max(1, p.rounds // 2)),
    ),
    Group(
        ("build_cached_vs_first", "build_cached_vs_first_dockerd"),
        lambda p: builds.cached(p.dockless, has_dockerd=p.docker is not None, rounds=p.slow_rounds),
    ),
    Group(("build_vs_buildah",), lambda p: builds.direct(p.dockless, p.scratch, rounds=2 * p.slow_rounds)),
    Group(("docker_api_rss_vs_dockerd",), lambda p: docker_api.memory(p.dockless, p.docker, p.scratch, rounds=p.slow_rounds)),
)
NAMES = tuple(name for group in _GROUPS for name in group.names)


def main(arguments: argparse.Namespace) -> int:
    """Prepare, measure, write, and return 1 if a target was missed."""
    scratch = Path(arguments.scratch)
    made = images.prepare(Path(arguments.cache))
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        host = stack.enter_context(docker_registry(made.storage))
        dockless = stack.enter_context(Dockless(arguments.program, scratch))
        with ExitStack() as peers:
            podman = peers.enter_context(Podman(scratch))
            compared: dict[str, warm.Peer] = {"podman": podman}
            docker = None
            versions = [f"dockless {__version__}", podman.version(), builds.buildah_version()]
            try:
                docker = peers.enter_context(Docker(scratch))
                compared["docker"] = docker
                versions.append(docker.version())
            except NotStarted as e:
                missing["docker"] = str(e)
            small = f"{host}/{images.SMALL}"
            for peer in compared.values():
                timed(peer.pull_argv(small), peer.environ, longest_s=60)
            dockless.pull(small)
            prepared = Prepared(arguments.rounds, dockless, podman, docker, compared, made, host, scratch)
            measured = [_run(group, prepared) for group in _GROUPS if arguments.only is None or arguments.only & set(group.names)]
    if left := processes.left_over(patience_s=10):
        raise SystemExit(f"an idle machine runs nothing of ours, but these are left: {', '.join(left)}")
    results = [result for each in measured for result in each.results]
    missed = [result for result in results if result.is_missed]
    if arguments.only is None:
        for each in measured:
            missing |= each.missing
        curve = next((each.curve for each in measured if each.curve), ())
        report.write(Path(arguments.results), results, missing=missing, image=str(made), versions=versions, rounds=arguments.rounds)
        plot.write(Path(arguments.results) / "results.svg", results, curve)
    for result in missed:
        print(f"bench: missed: {report.line(result)}", file=sys.stderr)
    return 1 if missed else 0


def _run(group: Group, prepared: Prepared) -> Measured:
    measured = group.measure(prepared)
    for result in measured.results:
        print(report.line(result), flush=True)
    return measured


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench")
    for name in ("program", "scratch", "cache", "results"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--only", metavar="NAME,…", type=lambda text: set(text.split(",")), help=f"measure some: {', '.join(NAMES)}")
    parser.add_argument("rounds", metavar="ROUNDS", nargs="?", type=int, default=ROUNDS, help=f"pairs to measure (default: {ROUNDS})")
    parsed = parser.parse_intermixed_args(words)  # ROUNDS may stand behind an option
    if parsed.only is not None and parsed.only - set(NAMES):
        parser.error(f"no such name: {', '.join(sorted(parsed.only - set(NAMES)))}")
    return parsed


if __name__ == "__main__":
    sys.exit(main(_arguments(sys.argv[1:])))

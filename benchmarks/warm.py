"""What a CI machine does all day, with a stored small image: one-off containers, steps of a running job, whole jobs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Protocol

from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, Result, Side, alternate, ratio, timed
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_calls import Ended

_CONTAINER = "bench"
_PROJECT = 7

# what gitlab-runner runs of a job, each in a script of its own
STAGES = (
    "prepare_script", "get_sources", "restore_cache", "download_artifacts", "build_script", "after_script", "archive_cache",
    "upload_artifacts_on_success",
)  # fmt: skip


class Peer(Protocol):
    """Another engine with docker's command line."""

    name: str
    environ: dict[str, str]

    def argv(self, *arguments: str) -> list[str]:
        """Return a command line."""

    def pull_argv(self, image: str) -> list[str]:
        """Return the command line that pulls an image of the loopback registry."""

    def remove_argv(self, container: str) -> list[str]:
        """Return the command line that ends a container at once and removes it."""

    def image_of(self, image: str) -> str:
        """Return what it calls an image of the loopback registry."""


def one_off(dockless: Dockless, image: str, peers: Mapping[str, Peer], *, rounds: int) -> Measured:
    """Start a container of a stored image, run `true` in it and remove it."""

    def by(peer: Peer) -> float:
        return timed(peer.argv("run", "--rm", peer.image_of(image), "true"), peer.environ)

    samples = alternate(_sides(lambda: dockless.one_off(image), by, peers), rounds=rounds)
    what = "`dockless run --image IMAGE -- true` / `{} run --rm IMAGE true`"
    return _compare(samples, peers, "run_vs_{}", what, 0.35)


def step(dockless: Dockless, image: str, peers: Mapping[str, Peer], *, rounds: int) -> Measured:
    """Run `true` in a job that stands, as one of its stages."""
    with ExitStack() as stack:
        attempt = stack.enter_context(standing_job(dockless, image, project=_PROJECT))
        for peer in peers.values():
            stack.enter_context(_standing_container(peer, image))

        def ours() -> float:
            return check(attempt, attempt.stage("build_script", ["true"])).seconds

        def by(peer: Peer) -> float:
            return timed(peer.argv("exec", _CONTAINER, "true"), peer.environ)

        samples = alternate(_sides(ours, by, peers), rounds=rounds)
    what = "`dockless gitlab run SCRIPT build_script`, the script being `true` / `{} exec CONTAINER true`"
    return _compare(samples, peers, "step_vs_{}_exec", what, 0.25)


def job(dockless: Dockless, image: str, peers: Mapping[str, Peer], *, rounds: int) -> Measured:
    """Play a whole GitLab job, and the same scripts through a peer's command line."""
    scripts = {stage: dockless.replay(image, project=_PROJECT).attempt().script(stage, _commands(stage)) for stage in STAGES}

    def by(peer: Peer) -> float:
        seconds = timed(peer.argv("run", "--detach", "--name", _CONTAINER, peer.image_of(image), "sleep", "3600"), peer.environ)
        for script in scripts.values():
            seconds += timed(peer.argv("exec", "--interactive", _CONTAINER, "sh"), peer.environ, stdin=script)
        return seconds + timed(peer.remove_argv(_CONTAINER), peer.environ)

    samples = alternate(_sides(lambda: whole_job(dockless, image), by, peers), rounds=rounds, warm_ups=1)
    what = f"a GitLab job: config, prepare, {len(STAGES)} stages, cleanup / `{{0}} run -d`, {len(STAGES)} times `{{0}} exec`, `{{0}} rm -f`"
    return _compare(samples, peers, "job_vs_{}", what, 0.30)


def whole_job(dockless: Dockless, image: str, *, docker: str = "") -> float:
    """Play a whole GitLab job and return the seconds that its phases took; `docker` as for Dockless.replay."""
    attempt = dockless.replay(image, project=_PROJECT, docker=docker).attempt()
    check(attempt, attempt.prepare())
    for stage in STAGES:
        check(attempt, attempt.stage(stage, _commands(stage)))
    check(attempt, attempt.cleanup())
    return sum(seconds for _, seconds, _ in attempt.build.timeline)


@contextmanager
def standing_job(dockless: Dockless, image: str, *, project: int, slot: int = 0, docker: str = "") -> Iterator[Attempt]:
    """Yield a job that was prepared; it is cleaned up afterwards. `docker` as for Dockless.replay."""
    attempt = dockless.replay(image, project=project, slot=slot, docker=docker).attempt()
    try:
        check(attempt, attempt.prepare())
        yield attempt
    finally:
        attempt.cleanup()


def check(attempt: Attempt, ended: Ended) -> Ended:
    """Return how a phase ended if it was well, else end with the job log."""
    if ended.failure or ended.returncode != 0:
        raise SystemExit(f"a phase of the job failed: {ended.failure}\n{bytes(attempt.build.log).decode(errors='replace')}")
    return ended


@contextmanager
def _standing_container(peer: Peer, image: str) -> Iterator[None]:
    timed(peer.argv("run", "--detach", "--name", _CONTAINER, peer.image_of(image), "sleep", "3600"), peer.environ)
    try:
        yield
    finally:
        timed(peer.remove_argv(_CONTAINER), peer.environ)


def _sides(ours: Side, by: Callable[[Peer], float], peers: Mapping[str, Peer]) -> dict[str, Side]:
    return {"dockless": ours, **{name: partial(by, peer) for name, peer in peers.items()}}


def _commands(stage: str) -> list[str]:
    return [f"echo {stage}", "mkdir -p /tmp/work", f"echo $((6 * 7)) > /tmp/work/{stage}"]


def _compare(samples: Mapping[str, list[float]], peers: Mapping[str, Peer], name: str, what: str, target: float) -> Measured:
    """Compare with each peer; the target is against podman."""
    results: list[Result] = []
    for peer in peers:
        wanted = target if peer == "podman" else None
        results.append(ratio(name.format(peer), what.format(peer), samples["dockless"], samples[peer], label=peer, target=wanted))
    return Measured(tuple(results))

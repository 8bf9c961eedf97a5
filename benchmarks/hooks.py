"""GitHub's container hooks: one step of a job that stands, and preparing a job with a service, against podman's command line."""

import shutil
import time
from pathlib import Path

from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, alternate, ratio, timed
from benchmarks.podman import Podman
from tests.support.github_replay import Called, Runner

_JOB, _SERVICE, _NETWORK = "bench-job", "bench-service", "bench-net"


def step(dockless: Dockless, podman: Podman, image: str, scratch: Path, *, rounds: int) -> Measured:
    """Run the script `true` as a step of a job with a container."""
    runner = _runner(dockless, scratch / "hook-step")
    try:
        _timed_call(runner, "prepare_job", runner.preparation(image))
        arguments = runner.script("true")
        script = f"/__w/_temp/{Path(arguments['entryPointArgs'][-1]).name}"
        timed(_podman_job(podman, runner, image), podman.environ)

        def ours() -> float:
            return _timed_call(runner, "run_script_step", arguments)

        def theirs() -> float:
            # as the runner itself has docker run a step: user, variables and directory with every call
            return timed(
                podman.argv("exec", "-i", "--workdir", "/__w/repo/repo", "-e", "CI=true", _JOB, "sh", "-e", script), podman.environ
            )

        samples = alternate({"hook": ours, "podman": theirs}, rounds=rounds)
    finally:
        _timed_call(runner, "cleanup_job", {})
        _remove(podman)
        shutil.rmtree(runner.root)
    what = "`run_script_step` of the script `true` / `podman exec -i --workdir DIR -e CI=true CONTAINER sh -e SCRIPT`"
    return Measured((ratio("hook_step_vs_podman", what, samples["hook"], samples["podman"], label="podman", target=0.30),))


def prepare(dockless: Dockless, podman: Podman, image: str, scratch: Path, *, rounds: int) -> Measured:
    """Prepare a job with a container and one service; cleaning up is not measured."""
    runner = _runner(dockless, scratch / "hook-prepare")
    arguments = runner.preparation(image, [{"image": image, "entryPointArgs": ["sleep", "3600"]}])

    def ours() -> float:
        seconds = _timed_call(runner, "prepare_job", arguments)
        _timed_call(runner, "cleanup_job", {})
        return seconds

    def theirs() -> float:
        seconds = timed(podman.argv("network", "create", _NETWORK), podman.environ)
        service = podman.argv("run", "--detach", "--network", _NETWORK, "--name", _SERVICE, podman.image_of(image), "sleep", "3600")
        seconds += timed(service, podman.environ)
        seconds += timed(_podman_job(podman, runner, image, "--network", _NETWORK), podman.environ)
        _remove(podman)
        podman.run("network", "rm", "--force", _NETWORK)
        return seconds

    try:
        samples = alternate({"hook": ours, "podman": theirs}, rounds=rounds)
    finally:
        shutil.rmtree(runner.root)
    what = "`prepare_job` with a container and a service / `podman network create` and twice `podman run -d`"
    return Measured((ratio("hook_prepare_vs_podman", what, samples["hook"], samples["podman"], label="podman", target=0.35),))


def _runner(dockless: Dockless, root: Path) -> Runner:
    root.mkdir()
    return Runner(root, dockless.configured_argv("github", "hook"), dockless.environ)


def _timed_call(runner: Runner, command: str, arguments: dict[str, object]) -> float:
    began = time.perf_counter()
    called = runner.call(command, arguments)
    seconds = time.perf_counter() - began
    _check(command, called)
    return seconds


def _check(command: str, called: Called) -> None:
    if called.code != 0:
        raise SystemExit(f"{command} ended with {called.code}: {called.log}")


def _podman_job(podman: Podman, runner: Runner, image: str, *options: str) -> list[str]:
    mounts = ["--volume", f"{runner.work}:/__w", "--volume", f"{runner.temp}:/__w/_temp"]
    return podman.argv("run", "--detach", *options, "--name", _JOB, *mounts, podman.image_of(image), "sleep", "3600")


def _remove(podman: Podman) -> None:
    podman.run("rm", "--force", "--time", "0", "--ignore", _JOB, _SERVICE)

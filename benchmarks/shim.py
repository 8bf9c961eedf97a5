"""The docker command that dockless gives to Jenkins Pipelines, against docker's own client over podman's API."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, alternate, ratio, timed
from benchmarks.podman import Podman

_CLIENT = "/usr/bin/docker"  # Debian's, whatever else /usr/local has
_CONTAINER = "bench-shim"
_NAMES = ("shim_exec_vs_docker_cli", "shim_run_vs_docker_cli")


def commands(dockless: Dockless, podman: Podman, image: str, scratch: Path, *, rounds: int) -> Measured:
    """Run `docker exec` in a container that stands, and `docker run -d`, by both commands."""
    if not Path(_CLIENT).exists():
        return Measured(missing=dict.fromkeys(_NAMES, f"there is no {_CLIENT}"))
    dockless.command("jenkins", "install-docker-shim", str(scratch / "shim"))
    ours = str(scratch / "shim" / "docker")
    with _service(podman, scratch) as environ:
        programs = {"dockless": (ours, dockless.environ), "docker": (_CLIENT, environ)}

        def run(side: str, name: str) -> float:
            program, own = programs[side]
            return timed([program, "run", "-t", "-d", "--name", name, image, "cat"], own)

        def remove(side: str, name: str) -> None:
            program, own = programs[side]
            timed([program, "rm", "--force", "--volumes", name], own, longest_s=30)

        def start(side: str) -> float:
            seconds = run(side, f"{_CONTAINER}-new")
            remove(side, f"{_CONTAINER}-new")
            return seconds

        def execute(side: str) -> float:
            program, own = programs[side]
            return timed([program, "exec", _CONTAINER, "true"], own)

        for side in programs:
            run(side, _CONTAINER)
        try:
            execs = alternate({side: partial(execute, side) for side in programs}, rounds=rounds)
            runs = alternate({side: partial(start, side) for side in programs}, rounds=rounds)
        finally:
            for side in programs:
                remove(side, _CONTAINER)
    results = (
        ratio(
            _NAMES[0], "`docker exec CONTAINER true` by dockless / by docker's client over podman's API",
            execs["dockless"], execs["docker"], label="docker", target=0.35,
        ),
        ratio(
            _NAMES[1], "`docker run -t -d IMAGE cat` by dockless / by docker's client over podman's API",
            runs["dockless"], runs["docker"], label="docker", target=0.40,
        ),
    )  # fmt: skip
    return Measured(results)


@contextmanager
def _service(podman: Podman, scratch: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a client of podman's API, which is served until the end of the block."""
    socket = scratch / "podman.sock"
    argv = podman.argv("system", "service", "--time", "0", f"unix://{socket}")
    served = subprocess.Popen(argv, env=podman.environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environ = {"PATH": podman.environ["PATH"], "HOME": podman.environ["HOME"], "DOCKER_HOST": f"unix://{socket}"}
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([_CLIENT, "version"], env=environ, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline or served.poll() is not None:
                raise SystemExit("podman does not serve its API")
            time.sleep(0.2)
        yield environ
    finally:
        served.terminate()
        served.wait(30)

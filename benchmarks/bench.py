"""`./dev bench`: dockless against podman, in pairs measured in one run; writes results.json and RESULTS.md.

python -m benchmarks.bench PROGRAM DIRECTORY [ROUNDS]
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.podman import Podman
from tests.support import images
from tests.support.gitlab_replay import Replay, job_payload

WARM_UPS = 3
LONGEST_S = 5.0


class Pair(NamedTuple):
    """One comparison: what each side does, and the ratio that is wanted."""

    name: str
    what: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    target: float


class Result(NamedTuple):
    """Medians in milliseconds."""

    pair: Pair
    ours_ms: float
    theirs_ms: float

    @property
    def ratio(self) -> float:
        return self.ours_ms / self.theirs_ms


def main(program: str, output: Path, rounds: int) -> int:
    """Measure every pair, alternating its sides, and write the results; 1 if a target was missed."""
    with ExitStack() as stack:
        # podman makes an image name of the path, which takes no random characters
        directory = Path.home() / f"dockless-bench-{os.getpid()}"
        directory.mkdir(mode=0o755)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        layout = directory / "image"
        images.write_oci_layout(layout, images.build_image([images.busybox_layer()]), "bench")
        image = f"oci:{layout}:bench"
        podman = stack.enter_context(Podman(directory))
        podman.run("pull", "--quiet", image)
        podman.start(podman.image_id())
        timed([program, "pull", image], os.environ)
        pairs = _run_pair(program, image, podman), _step_pair(program, image, podman, directory, stack)
        results = [measure(pair, rounds) for pair in pairs]
        write(results, rounds, podman.version(), output)
    return 0 if all(result.ratio <= result.pair.target for result in results) else 1


def _run_pair(program: str, image: str, podman: Podman) -> Pair:
    ours = [program, "run", "--pull", "never", "--image", image, "--", "true"]
    return Pair(
        "run_vs_podman",
        "`dockless run --image IMAGE -- true` / `podman run --rm IMAGE true`",
        lambda: timed(ours, os.environ),
        lambda: timed(podman.argv("run", "--rm", podman.image_id(), "true"), podman.environ),
        0.40,
    )


def _step_pair(program: str, image: str, podman: Podman, directory: Path, stack: ExitStack) -> Pair:
    config = directory / "config.yaml"
    config.write_text(f"images: {{allowed: ['oci:{directory}/**']}}\n")
    driver = {verb: [program, "--config", str(config), "gitlab", verb] for verb in ("config", "prepare", "run", "cleanup")}
    payload = job_payload(image={"name": image}, variables={"GIT_STRATEGY": "none"})
    attempt = Replay(driver, payload, env=dict(os.environ)).attempt()
    stack.callback(attempt.cleanup)
    prepared = attempt.prepare()
    if prepared.failure:
        raise SystemExit(bytes(attempt.build.log).decode(errors="replace"))
    script = Path(attempt.temp_dir) / "true.sh"
    script.write_text(attempt.script("build_script", ["true"]))
    ours, env = [*driver["run"], str(script), "build_script"], attempt.environment()
    return Pair(
        "step_vs_podman_exec",
        "`dockless gitlab run SCRIPT build_script`, the script being `true` / `podman exec CONTAINER true`",
        lambda: timed(ours, env),
        lambda: timed(podman.argv("exec", podman.container, "true"), podman.environ),
        0.30,
    )


def timed(argv: Sequence[str], env: Mapping[str, str]) -> float:
    """Run a program that must succeed, and return its seconds."""
    start = time.perf_counter()
    done = subprocess.run(argv, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    if seconds > LONGEST_S:
        raise SystemExit(f"{' '.join(argv)} took {seconds:.1f} s: something waits here, and the ratio would mean nothing")
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return seconds


def measure(pair: Pair, rounds: int) -> Result:
    """Run both sides in turn, so that a noisy machine disturbs both alike."""
    ours, theirs = [], []
    for number in range(WARM_UPS + rounds):
        mine, other = pair.ours(), pair.theirs()
        if number >= WARM_UPS:
            ours.append(mine * 1000)
            theirs.append(other * 1000)
    result = Result(pair, statistics.median(ours), statistics.median(theirs))
    print(f"{pair.name}: {result.ours_ms:.1f} ms / {result.theirs_ms:.1f} ms = {result.ratio:.3f} (wanted: at most {pair.target})")
    return result


def write(results: Sequence[Result], rounds: int, peer: str, output: Path) -> None:
    """Write one number a name, and a table for people."""
    (output / "results.json").write_text(json.dumps({result.pair.name: round(result.ratio, 3) for result in results}, indent=2) + "\n")
    rows = [
        f"| {r.pair.name} | {r.pair.what} | {r.ours_ms:.0f} ms | {r.theirs_ms:.0f} ms | **{r.ratio:.2f}** | {r.pair.target:.2f} |"
        for r in results
    ]
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, {peer}"
    text = [
        f"Medians of {rounds} pairs, each measured one after the other in one run of `./dev bench` ({machine}).",
        "",
        "| name | what | dockless | podman | ratio | wanted at most |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    (output / "RESULTS.md").write_text("\n".join(["# Benchmark", "", *text]) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 20))

"""Building an image of ten layers in a job: the second time against the first, and against buildah without a job around it."""

import itertools
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.docker import CLIENT
from benchmarks.dockless import Dockless, docker_by
from benchmarks.measure import Measured, Result, Samples, alternate, ratio, settle, timed
from benchmarks.podman import Podman
from benchmarks.warm import check, standing_job
from tests.support import images
from tests.support.gitlab_attempt import Attempt

TOOLBOX = "toolbox"  # the jobs' image: it has the host's clients
BASE, BUILT = "bench-base", "bench-built"
LONGEST_S = 120.0
_PROJECT = 9
_PART_BYTES = 1024**2  # twice as much as text
# what a step that installs or compiles does, made small: most of a second of a processor, some MB, some dozens of files
_WORK = (
    "mkdir -p /out/{0} && for i in $(seq 6); do gzip -9c /parts/{1} > /out/{0}/$i.gz; done && "
    "for i in $(seq 50); do head -c 20000 /parts/{1} > /out/{0}/$i; done"
)
_STEPS = (
    "COPY part0 /parts/0", *(f"RUN {_WORK.format(number, 0)}" for number in range(4)),
    "COPY part1 /parts/1", *(f"RUN {_WORK.format(number, 1)}" for number in range(4, 8)),
)  # fmt: skip
_PARTS, _LAYERS = 2, len(_STEPS)
# the same context for the same word, wherever it is made
_CONTEXT = """import random, sys
made = random.Random(sys.argv[1])
for number in range(int(sys.argv[2])):
    with open(f"part{number}", "w") as file:
        file.write(made.randbytes(int(sys.argv[3])).hex())
with open("Dockerfile", "w") as file:
    file.write(sys.argv[4])
"""
MAKE_BASE = f"""mkdir -p root/bin
cp {images.BUSYBOX} root/bin/busybox
for name in sh mkdir gzip seq head true; do ln -sf busybox root/bin/$name; done
tar -C root -cf base.tar ."""

# content that no build of this run had before
_words = (f"content {number}" for number in itertools.count())


def cached(dockless: Dockless, *, has_dockerd: bool, rounds: int) -> Measured:
    """Build new content in one job and then again in the next of the same build user; in both, the API is cold."""
    results = [_again(dockless, "podman", "build_cached_vs_first", rounds=rounds, target=0.15)]
    if not has_dockerd:
        return Measured(tuple(results), missing={"build_cached_vs_first_dockerd": "dockerd does not start here"})
    results.append(_again(dockless, "dockerd", "build_cached_vs_first_dockerd", rounds=rounds, target=None))
    return Measured(tuple(results))


def direct(dockless: Dockless, scratch: Path, *, rounds: int) -> Measured:
    """Build new content through the API of a job, which is warm, and by a buildah of the account's own."""
    directory = scratch / "builds"
    (directory / "context").mkdir(parents=True)
    with Podman(directory) as store, standing_job(dockless, TOOLBOX, project=_PROJECT, docker=docker_by("podman")) as attempt:
        import_base(attempt)
        subprocess.run(["sh", "-euc", MAKE_BASE], cwd=directory, check=True)
        store.run("import", "--quiet", str(directory / "base.tar"), BASE)
        ours = partial(build_new, attempt)

        def theirs() -> float:
            context = new_context(directory / "context")
            settle()
            argv = ["buildah", "build", "--quiet", "--layers", "--format", "docker", "--tag", BUILT, str(context)]
            return timed(argv, store.environ, longest_s=LONGEST_S)

        samples = alternate({"job": ours, "buildah": theirs}, rounds=rounds, warm_ups=1)
    what = (
        f"`docker build` of {_LAYERS} layers with new content, in a job that used its API (podman) before / `buildah build --layers` alone"
    )
    return Measured((ratio("build_vs_buildah", what, samples["job"], samples["buildah"], label="buildah", target=1.1),))


def buildah_version() -> str:
    """Return "buildah version …"."""
    done = subprocess.run(["buildah", "--version"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split()[:3])


def import_base(attempt: Attempt) -> None:
    """Give the API of a job the image that is built upon."""
    check(
        attempt,
        attempt.stage("prepare_script", ["mkdir -p /builds/base", "cd /builds/base", MAKE_BASE, f"{CLIENT} import base.tar {BASE}"]),
    )


def build_new(attempt: Attempt) -> float:
    """Build new content in a job and return the seconds of that stage."""
    seconds, reused = _build(attempt, next(_words))
    if reused:
        raise SystemExit(f"a build of new content took {reused} steps from a cache")
    return seconds


def new_context(directory: Path) -> Path:
    """Make a context with new content in a directory of this machine, and return it."""
    subprocess.run([sys.executable, "-c", _CONTEXT, *_context_arguments(next(_words))], cwd=directory, check=True)
    return directory


def _again(dockless: Dockless, engine: str, name: str, *, rounds: int, target: float | None) -> Result:
    samples: dict[str, Samples] = {"first": [], "second": []}
    job = partial(standing_job, dockless, TOOLBOX, project=_PROJECT, docker=docker_by(engine))
    with job() as attempt:
        import_base(attempt)
        build_new(attempt)
    for _ in range(rounds):
        word = next(_words)
        for side, from_cache in (("first", 0), ("second", _LAYERS)):
            with job() as attempt:
                seconds, reused = _build(attempt, word)
            if reused != from_cache:
                raise SystemExit(f"the {side} build took {reused} steps from the cache of {engine}, and not {from_cache}")
            samples[side].append(seconds)
    what = f"`docker build` of {_LAYERS} layers ({engine}) with a cold API, of what the build user has built before / the same, first"
    return ratio(name, what, samples["second"], samples["first"], label="first", target=target)


def _build(attempt: Attempt, word: str) -> tuple[float, int]:
    """Build the content of a word; return the seconds, and how many steps were taken from a cache."""
    make = shlex.join(["python3", "-c", _CONTEXT, *_context_arguments(word)])
    check(attempt, attempt.stage("get_sources", ["mkdir -p /builds/context", "cd /builds/context", make]))
    settle()
    said = len(attempt.build.log)
    ended = check(attempt, attempt.stage("build_script", [f"{CLIENT} build --tag {BUILT} /builds/context"]))
    return ended.seconds, attempt.build.log.count(b"Using cache", said)


def _context_arguments(word: str) -> list[str]:
    return [word, str(_PARTS), str(_PART_BYTES), "".join(f"{line}\n" for line in (f"FROM {BASE}", *_STEPS))]

"""Bringing the big image: from nothing, with half of it present, and against the parts of the work alone."""

import os
import resource
import sys
from functools import partial
from pathlib import Path

from benchmarks import images, parts
from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, Result, alternate, median, ratio, settle, timed
from benchmarks.podman import Podman

_LONGEST_S = 300.0


def cold(dockless: Dockless, podman: Podman, made: images.Made, host: str, scratch: Path, *, rounds: int) -> Measured:
    """Pull with empty stores; in the same rounds, the parts of our pull each alone."""
    image = f"{host}/{images.BIG}"
    store = scratch / "parts"
    store.mkdir(mode=0o755)

    def ours() -> float:
        dockless.forget()
        _even(made)
        return dockless.pull(image)

    def theirs() -> float:
        podman.forget()
        _even(made)
        return timed(podman.pull_argv(image), podman.environ, longest_s=_LONGEST_S)

    used: dict[str, list[float]] = {name: [] for name in parts.PARTS}

    def part(name: str) -> float:
        _run_part("clear", image, store)
        _even(made)
        before = _processor_seconds()
        seconds = _run_part(name, image, store)
        used[name].append(_processor_seconds() - before)
        return seconds

    _run_part("prepare", image, store)
    alone = {name: partial(part, name) for name in parts.PARTS}
    samples = alternate({"dockless": ours, "podman": theirs, **alone}, rounds=rounds, warm_ups=0)
    dockless.forget()
    podman.forget()
    _run_part("remove", image, store)
    slowest = max(parts.PARTS, key=lambda name: median(samples[name]))
    figures = ", ".join(f"{name} {median(samples[name]):.1f} s" for name in parts.PARTS)
    against_podman = "`dockless pull` / `podman pull`, both into an empty store"
    against_parts = f"the same / the slowest of its parts alone, each with all processors ({figures})"
    pull, bound = median(samples["dockless"]), sum(median(used[name]) for name in parts.PARTS) / (os.cpu_count() or 1)
    no_less = "the same / what all processors need at least for its parts together, the registry's and the kernel's own work left out"
    return Measured(
        (
            ratio("pull_vs_podman", against_podman, samples["dockless"], samples["podman"], label="podman", target=0.45),
            ratio("pull_vs_slowest_part", against_parts, samples["dockless"], samples[slowest], label=slowest, target=1.3),
            Result("pull_vs_processors", no_less, pull / bound, None, f"{pull:.1f} s", f"bound {bound:.1f} s", ""),
        ),
        missing={"pull_vs_docker": "a rootless dockerd reaches a registry on loopback only through slirp4netns, which would be measured"},
    )


def half(dockless: Dockless, podman: Podman, made: images.Made, host: str, *, rounds: int) -> Measured:
    """Pull the image when an image of its lower layers is there already."""
    base, image = f"{host}/{images.BASE}", f"{host}/{images.BIG}"

    def ours() -> float:
        dockless.forget()
        dockless.pull(base)
        _even(made)
        return dockless.pull(image)

    def theirs() -> float:
        podman.forget()
        timed(podman.pull_argv(base), podman.environ, longest_s=_LONGEST_S)
        _even(made)
        return timed(podman.pull_argv(image), podman.environ, longest_s=_LONGEST_S)

    samples = alternate({"dockless": ours, "podman": theirs}, rounds=rounds, warm_ups=0)
    dockless.forget()
    podman.forget()
    share = made.base_bytes / made.compressed_bytes
    what = f"the same with an image there that has {share:.0%} of its bytes as lower layers"
    return Measured((ratio("pull_half_vs_podman", what, samples["dockless"], samples["podman"], label="podman", target=None),))


def _even(made: images.Made) -> None:
    """Give both sides the same start: nothing on its way to the disk, and what the registry serves in memory."""
    settle()
    images.warm(made.storage)


def _processor_seconds() -> float:
    """Return what all ended children have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run_part(name: str, image: str, store: Path) -> float:
    # a program each, as a pull is one: what one of them has imported is no gain for the next
    return timed([sys.executable, "-m", "benchmarks.parts", name, image, str(store)], os.environ, longest_s=_LONGEST_S)

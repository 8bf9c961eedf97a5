"""Bringing the big image: from nothing, with half of it present, and against the parts of the work alone."""

import os
import sys
from functools import partial
from pathlib import Path

from benchmarks import images, parts
from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, alternate, median, ratio, settle, timed
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

    def part(name: str) -> float:
        _run_part("clear", image, store)
        _even(made)
        return _run_part(name, image, store)

    _run_part("prepare", image, store)
    alone = {name: partial(part, name) for name in parts.PARTS}
    samples = alternate({"dockless": ours, "podman": theirs, **alone}, rounds=rounds, warm_ups=0)
    dockless.forget()
    podman.forget()
    _run_part("remove", image, store)
    slowest = max(parts.PARTS, key=lambda name: median(samples[name]))
    figures = ", ".join(f"{name} {median(samples[name]):.1f} s" for name in parts.PARTS)
    against_podman = "`dockless pull` / `podman pull`, both into an empty store"
    against_parts = f"the same / the slowest of its parts alone ({figures})"
    return Measured(
        (
            ratio("pull_vs_podman", against_podman, samples["dockless"], samples["podman"], label="podman", target=0.45),
            ratio("pull_vs_slowest_part", against_parts, samples["dockless"], samples[slowest], label=slowest, target=1.3),
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


def _run_part(name: str, image: str, store: Path) -> float:
    # a program each, as a pull is one: what one of them has imported is no gain for the next
    return timed([sys.executable, "-m", "benchmarks.parts", name, image, str(store)], os.environ, longest_s=_LONGEST_S)

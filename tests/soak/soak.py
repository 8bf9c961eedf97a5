"""A whole soak: jobs in random order, several at once, some attacked; then what users would run anyway, and the count of what is left."""

import random
import re
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.soak import attacks, census, jobs
from tests.soak.jobs import Job, Outcome, Workshop
from tests.support import docker_shim, images
from tests.support.engine import Engine, wait_until
from tests.support.gitlab_jobs import GitLab

# Python's own words about a SIGINT that came before it had come to our program
_NOT_OURS = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)*KeyboardInterrupt\n")
_FORBIDDEN = ("Traceback (most recent call last)", "internal error")


class Played(NamedTuple):
    """What became of one job; `attack` is "" for one that was left alone, or that was over before anything could be done to it."""

    number: int
    kind: str
    attack: str
    error: str
    seconds: float


def workshop(root: Path) -> Workshop:
    """Make a store with its images, and everything that jobs are made in, below a directory."""
    engine = Engine(root)
    temporary = root / "tmp"
    temporary.mkdir()
    gitlab = GitLab(engine, temporary)
    layout = root / "layout"
    images.write_oci_layout(layout, images.build_image([images.busybox_layer()], {"Cmd": ["/bin/sh"]}), "v1")
    (root / "agent").mkdir()
    agent = docker_shim.install(engine, root / "agent")
    return Workshop(engine, gitlab, agent, ("toolbox", f"oci:{layout}:v1"), root)


def run(shop: Workshop, *, count: int, seconds: float, seed: int, together: int, attacked: float) -> dict[str, object]:
    """Play `count` jobs, fewer if `seconds` are over before; return the summary. `attacked` is the share of jobs that are attacked."""
    began = time.monotonic()
    rng = random.Random(seed)
    assert _settle(shop, kinds=("run",), first=800_001) == []
    before = census.take(shop.engine, shop.gitlab.temporary)
    names = list(jobs.KINDS)
    kinds = rng.choices(names, weights=[jobs.KINDS[name][1] for name in names], k=count)
    planned = [
        (Job(number, kind, random.Random(rng.random())), rng.random() < attacked) for number, kind in enumerate(kinds, start=1)
    ]  # fmt: skip
    with ThreadPoolExecutor(together) as pool:
        waiting: list[Future[Played | None]] = [
            pool.submit(_play, shop, asked, is_attacked=hit, until=began + seconds) for asked, hit in planned
        ]  # fmt: skip
        played = [one for one in (future.result() for future in waiting) if one is not None]
    took = time.monotonic() - began
    left = _settle(shop, kinds=("gitlab", "run", "github", "jenkins block"), first=900_001)
    wait_until(lambda: not census.differences(before, census.take(shop.engine, shop.gitlab.temporary)), 30)
    differences = census.differences(before, census.take(shop.engine, shop.gitlab.temporary))
    return {
        "seed": seed, "asked": count, "jobs": len(played), "seconds": round(took, 1), "together": together,
        "kinds": dict(Counter(one.kind for one in played)), "attacked": sum(bool(one.attack) for one in played),
        "attacks": dict(Counter(one.attack for one in played if one.attack)),
        "errors": [one._asdict() for one in played if one.error], "leftovers": [*left, *differences],
        "slowest": max((round(one.seconds, 1) for one in played), default=0.0),
    }  # fmt: skip


def _settle(shop: Workshop, *, kinds: tuple[str, ...], first: int) -> list[str]:
    """Do what comes next on any machine; return what went wrong.

    That is one more job of some kinds, a check of the store, and a collection as on a full disk, which keeps nothing that is not in use:
    then the leases of build users end as well.
    """
    wrong = []
    for number, kind in enumerate(kinds, start=first):
        outcome = jobs.KINDS[kind][0](shop, Job(number, kind, random.Random(number)))
        if not outcome.passed:
            wrong.append(f"the next {kind} fails: {outcome.log[-3000:]}")
    text = shop.engine.config.read_text()
    shop.gitlab.configure(gc={"high": 1, "low": 0, "volumes_max_age": "1s", "storage_max_age": "1s"})
    time.sleep(1.1)  # so old is what the last job used then
    for word in ("verify", "gc"):
        result = shop.engine.run(word, timeout_s=240)
        if result.code:
            wrong.append(f"{word} fails: {result.err[-3000:]}")
    shop.engine.config.write_text(text)
    return wrong


def _play(shop: Workshop, asked: Job, *, is_attacked: bool, until: float) -> Played | None:
    """Play one job, and attack it; None if the time for jobs is over."""
    if time.monotonic() > until:
        return None
    began = time.monotonic()
    ended = threading.Event()
    name = attacks.choose(asked) if is_attacked else ""
    struck: list[bool] = []
    attacker = threading.Thread(target=lambda: struck.append(attacks.strike(name, shop, asked, ended=ended)), daemon=True)
    if name:
        attacker.start()
    try:
        outcome = jobs.KINDS[asked.kind][0](shop, asked)
    except Exception:  # whatever it is, it is this job's and not the soak's
        outcome = Outcome(False, traceback.format_exc())
    finally:
        ended.set()
    if name:
        attacker.join()
    hit = any(struck)
    played = Played(asked.number, asked.kind, name if hit else "", _error(outcome, is_hit=hit), time.monotonic() - began)
    print(f"soak: {played.number} {played.kind}: {played.attack or 'left alone'}, {played.seconds:.1f} s {played.error}", file=sys.stderr)
    return played


def _error(outcome: Outcome, *, is_hit: bool) -> str:
    """Return what is wrong with an outcome, "" for nothing: a job that was attacked may fail, but no job may show a bug."""
    shown = _NOT_OURS.sub("", outcome.log) if is_hit else outcome.log
    if any(words in shown for words in _FORBIDDEN):
        return f"a bug is shown: {outcome.log[-4000:]}"
    return "" if outcome.passed or is_hit else f"it failed: {outcome.log[-4000:]}"

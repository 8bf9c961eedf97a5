"""Commands that are meant to fail: how each is given an image, what it told, and what of the store it left half-written."""

import json
from collections.abc import Callable
from typing import NamedTuple

from tests.support.engine import Engine, Result
from tests.support.gitlab_jobs import GitLab, job, text_of

USER, SYSTEM = "user", "system"  # whose fault it is: trying again changes nothing, or may help

COMMANDS = ("gitlab", "pull", "run")  # each of which needs an image

# how those of them that people type are given an image
ARGUMENTS: dict[str, Callable[[str], list[str]]] = {
    "pull": lambda image: ["pull", image],
    "run": lambda image: ["run", "--image", image, "--", "true"],
}

# contracts/gitlab.md 1.4; podman-run(1) on 125, which is all that `run` can say about itself
CODES = {
    "gitlab": {USER: 1, SYSTEM: 2},
    "pull": {USER: 1, SYSTEM: 2},
    "run": {USER: 125, SYSTEM: 125},
}


class Told(NamedTuple):
    """What a command that failed told its caller, and everybody who reads its log."""

    code: int | None
    text: str


def use_image(gitlab: GitLab, command: str, image: str, **variables: str) -> Told:
    """Have one of COMMANDS use an image, once: a job is prepared and cleaned up, not retried as a runner would.

    `variables` are the job's, or the environment of the other commands.
    """
    if command == "gitlab":
        attempt = gitlab.replay(job(image=image, variables=variables)).attempt()
        ended = attempt.prepare()
        assert attempt.cleanup().returncode == 0, bytes(attempt.build.runner_log).decode()
        return Told(ended.returncode, text_of(attempt))
    return told(gitlab.engine.run(*ARGUMENTS[command](image), env=variables))


def told(result: Result) -> Told:
    """Return what a command line of the engine told."""
    return Told(result.code, result.err)


def is_explained(text: str) -> bool:
    """Tell whether a failure was told as people read it: one sentence, then a hint on its own line, and no stack."""
    lines = text.replace("\033[0;m", "").splitlines()
    sentences = [number for number, line in enumerate(lines) if "ERROR: " in line and "ERROR: Job failed" not in line]
    if len(sentences) != 1 or "Traceback" in text or "internal error" in text:
        return False
    hint = lines[sentences[0] + 1]
    return hint.startswith("(") and hint.endswith(")")


def half_written(engine: Engine) -> list[str]:
    """Return what of the store is under way and not there yet."""
    patterns = ("blobs/partial/*", ".[!.]*", "*/.[!.]*", "layers/*/.[!.]*", "blobs/sha256/.[!.]*")
    found = {path for pattern in patterns for path in engine.state.glob(pattern)}
    return sorted(str(path) for path in found - set(engine.state.glob("layers/*/.*.lock")))  # each layer that was unpacked has a lock


def entries(engine: Engine) -> dict[str, list[str]]:
    """Return the blobs, images and unpacked layers of the store by name."""
    patterns = {"blobs": "blobs/sha256/*", "images": "images/*", "layers": "layers/*/*/"}
    return {kind: sorted(path.name for path in engine.state.glob(pattern)) for kind, pattern in patterns.items()}


def torn_layers(engine: Engine) -> list[str]:
    """Return the unpacked layers that are not whole. Whole ones of an image that failed are for the next try, or for the collector."""
    return sorted(str(path) for path in engine.state.glob("layers/*/*/") if not path.with_name(f"{path.name}.seal").exists())


def leases(engine: Engine) -> dict[str, int]:
    """Return who leases which slice of subordinate ids."""
    try:
        found: dict[str, int] = json.loads((engine.state / "build-users.json").read_text())
    except FileNotFoundError:
        return {}
    return found

"""What a step's container is called: first whose job it belongs to, then what it is made of."""

from __future__ import annotations

from _blake2 import blake2b  # hashlib loads a TLS library beside it, which costs 3 ms

from runner.kernel import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner.adapters.step.asked import Asked
    from runner.model import VolumeSpec

# jobs of a matrix have all of these in common, and the names of runners are the administrator's choice: the worker is what tells them apart
_OF_JOB = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "RUNNER_NAME", "RUNNER_TEMP")


def prefix(environ: Mapping[str, str], worker: tuple[int, int]) -> str:
    """Return how the keys of all containers of one job's steps begin."""
    return f"step-{_digest([[environ.get(name, '') for name in _OF_JOB], list(worker)])}-"


def make(environ: Mapping[str, str], worker: tuple[int, int], asked: Asked, volumes: tuple[VolumeSpec, ...]) -> str:
    """Return the key of the container that a step wants: the same for every step of the job that wants the same."""
    return prefix(environ, worker) + _digest([asked.container(), volumes])


def _digest(value: Any) -> str:
    return blake2b(plain_json.dumps(value).encode(), digest_size=8).hexdigest()

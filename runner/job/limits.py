"""Limits of a job's containers: one cgroup v2 group per job, one leaf per container, where the account has a delegated subtree."""

from contextlib import ExitStack

from runner.job.state import JobState
from runner.model import JobSpec


def apply(current: JobState, spec: JobSpec, stack: ExitStack) -> JobState:
    """Make the job's groups and write down their paths."""
    return current


def remove(path: str) -> None:
    """Remove a job's groups."""

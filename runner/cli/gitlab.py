"""`dockless gitlab`: the verbs of the custom executor, and the snippet that connects a runner."""

import os
import sys

import click

from runner.cli.group import Group


@click.group("gitlab", cls=Group)
def group() -> None:
    """Be the executor of a GitLab runner (config.toml, [runners.custom])."""


@group.command()
def config() -> int:
    """Answer config_exec."""
    from runner.adapters.gitlab import config as verb

    return verb.main([], os.environ)


@group.command()
def prepare() -> int:
    """Answer prepare_exec: make the job's containers."""
    from runner.adapters.gitlab import prepare as verb

    return verb.main([], os.environ)


@group.command()
@click.argument("script")
@click.argument("stage")
def run(script: str, stage: str) -> int:
    """Answer run_exec: run one stage of the job."""
    from runner.adapters.gitlab import run as verb

    return verb.main([script, stage], os.environ)


@group.command()
def cleanup() -> int:
    """Answer cleanup_exec: end the job, keep its caches."""
    from runner.adapters.gitlab import cleanup as verb

    return verb.main([], os.environ)


@group.command("register-snippet")
def register_snippet() -> int:
    """Print the entry for the runner's config.toml."""
    from runner.adapters.gitlab import snippet

    return snippet.main(os.path.abspath(sys.argv[0]), os.environ)

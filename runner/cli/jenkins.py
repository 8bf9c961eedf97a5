"""`dockless jenkins`: what a Jenkins agent needs of this machine."""

import os

import click

from runner.cli.group import Group


@click.group("jenkins", cls=Group)
def group() -> None:
    """Serve a Jenkins agent: the docker command that its Pipelines call."""


@group.command("install-docker-shim")
@click.argument("directory", metavar="DIR")
@click.option("--root", "roots", multiple=True, metavar="DIR", help="allow mounts of this directory only [default: what the account owns]")
@click.option("--build-user", default="jenkins", show_default=True, metavar="NAME", help="whose ids and whose caches containers use")
def install_docker_shim(directory: str, roots: tuple[str, ...], build_user: str) -> int:
    """Write a `docker` into DIR, for the PATH of the agent: what docker-workflow's Pipelines call, served by dockless."""
    from runner.cli import docker_shim

    return docker_shim.install(directory, os.environ, roots=roots, build_user=build_user)

"""`dockless github`: the container hook of an actions runner, and what connects a runner to it."""

import os
import sys

import click

from runner.cli.group import Group
from runner.cli.surroundings import open_all


@click.group("github", cls=Group)
def group() -> None:
    """Run the containers of a GitHub Actions runner (container hooks)."""


@group.command()
def hook() -> int:
    """Answer one call of the runner: a line of JSON on stdin."""
    from runner.adapters.github import hook as door

    return door.main([], os.environ)


@group.command()
@click.option("--runner-dir", required=True, metavar="DIR", help="the runner's directory, which has its config.sh")
@click.option("--shell", "with_shell", is_flag=True, help="have the runner call the .sh launcher, the weaker one")
def install(runner_dir: str, with_shell: bool) -> None:
    """Write the launchers into a runner's directory, and the line of its .env that names one."""
    from runner.adapters.github import install as writer

    for path in writer.main(os.path.abspath(sys.argv[0]), os.environ, runner_dir=runner_dir, with_shell=with_shell):
        click.echo(f"wrote {path}")
    click.echo("restart the runner: it reads .env when it starts")


@group.command()
@click.option("--runner-dir", required=True, metavar="DIR", help="the runner's directory, which has its config.sh")
def doctor(runner_dir: str) -> int:
    """Check that a runner is connected, and name what mends it."""
    from runner.adapters.github import doctor as checks

    findings = checks.check(runner_dir, os.environ, state_dir=open_all(os.environ).store.root)
    for finding in findings:
        mark = "ok  " if not finding.hint else "FAIL" if finding.is_fatal else "warn"
        click.echo(f"{mark}  {finding.text}")
        if finding.hint:
            click.echo(f"      ({finding.hint})")
    return 1 if any(finding.hint and finding.is_fatal for finding in findings) else 0

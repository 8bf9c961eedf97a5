"""Every command but the hot ones, by click: help texts, completion, and bodies that call the layer below."""

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from runner import __version__, errors
from runner.cli import agent_options, github, gitlab, jenkins, run_options, show, step_options
from runner.cli.group import Group
from runner.cli.options import Option
from runner.cli.surroundings import open_all

_CONTEXT = {"help_option_names": ["--help"], "max_content_width": 110}


def main(argv: list[str]) -> int:
    """Run one command line and return its exit code; usage errors become UserErrors."""
    try:
        result = dockless.main(args=argv, prog_name="dockless", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.ctx.get_help() if e.ctx else e.format_message())
        return 0
    except click.ClickException as e:
        raise usage_error(e) from e
    except click.exceptions.Abort as e:
        raise KeyboardInterrupt from e
    except SystemExit as e:
        if e.code != 1:  # a signal's, such as that of a cancelled prepare
            raise
        # what click makes of a closed pipe
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from e
    return result if isinstance(result, int) else 0


def usage_error(error: click.ClickException) -> errors.UserError:
    """Return click's complaint as one sentence, and its suggestion as the hint."""
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path if context else 'dockless'} --help`"
    if isinstance(error, click.NoSuchOption):
        return errors.UserError(
            f"there is no option {error.option_name}", f"did you mean {error.possibilities[0]}?" if error.possibilities else hint
        )
    words = " ".join(error.format_message().split()).rstrip(".").replace(". Choose from:", ": choose from")
    return errors.UserError(words[:1].lower() + words[1:], hint)


@click.group(cls=Group, context_settings=_CONTEXT)
@click.version_option(__version__, message="dockless %(version)s")
@click.option(
    "--config", metavar="FILE", help="the configuration file [default: ~/.config/dockless/config.yaml, /etc/dockless/config.yaml]"
)
@click.option("--state-dir", metavar="DIR", help="where images, caches and jobs live [default: ~/.local/share/dockless]")
@click.option("--debug", is_flag=True, help="say what is done, and show tracebacks")
def dockless(config: str | None, state_dir: str | None, debug: bool) -> None:
    """CI jobs in rootless containers, without Docker-in-Docker and without a daemon."""


dockless.add_command(gitlab.group)
dockless.add_command(github.group)
dockless.add_command(jenkins.group)


def _parameters(options: tuple[Option, ...]) -> list[click.Parameter]:
    parameters: list[click.Parameter] = [
        click.Option(
            list(option.names),
            metavar=option.value or None,
            is_flag=not option.value,
            multiple=option.many,
            help=option.help,
            type=click.Choice(option.choices) if option.choices else None,
        )
        for option in options
    ]
    return [*parameters, click.Argument(["command"], nargs=-1, type=click.UNPROCESSED)]


def _hot(**_values: Any) -> NoReturn:
    raise errors.Bug("this command is handled before click")


dockless.add_command(
    click.Command(
        "run",
        callback=_hot,
        params=_parameters(run_options.OPTIONS),
        help="Run a command in a new container: dockless run --image alpine -- sh -c 'echo hello'.",
        epilog="Exit codes: the command's own; 125 when dockless fails, 126 and 127 when the command cannot be run or found.",
    )
)
dockless.add_command(
    click.Command(
        "step",
        callback=_hot,
        params=_parameters(step_options.OPTIONS),
        help="Run a step of a GitHub Actions job in a container that the job's steps share: "
        "shell: dockless step --image node:22 -- bash -e {0}",
        epilog="Exit codes: the command's own; 125 when dockless fails, 126 and 127 when the command cannot be run or found.",
    )
)
jenkins.group.add_command(
    click.Command(
        "agent",
        callback=_hot,
        params=_parameters(agent_options.OPTIONS),
        help="Run an agent of Jenkins in a container of its own: dockless jenkins agent --image IMG -- COMMAND, with the command that "
        "Jenkins would run. Its stdin and stdout are the channel.",
        epilog="Without a command the image's own is run. Exit codes: the agent's own, or 1 to 3 when dockless fails.",
    )
)


@dockless.command()
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option("--platform", default="", metavar="OS/ARCH", help="the platform, where an image has several")
@click.option("--all-from", "files", multiple=True, metavar="FILE", help="a .gitlab-ci.yml, or a list with one image a line; - is stdin")
@click.pass_context
def pull(context: click.Context, images: tuple[str, ...], platform: str, files: tuple[str, ...]) -> None:
    """Fetch images into the store, also if they are there already: those that are named, and all that files name."""
    from runner.cli import pull as command

    if not images and not files:
        raise click.UsageError("Missing argument 'IMAGE...'", context)
    command.main(images, files, platform=platform, environ=os.environ)


@dockless.command()
@click.argument("context", metavar="CONTEXT")
@click.option("-t", "--tag", "name", required=True, metavar="NAME", help="the name of the image")
@click.option("-f", "--file", default="", metavar="FILE", help="the Dockerfile [default: the context's Containerfile or Dockerfile]")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="set an ARG, or pass on the caller's variable")
@click.option("--target", default="", metavar="STAGE", help="build this stage")
@click.option("--secret", "secrets", multiple=True, metavar="id=ID,src=FILE", help="what RUN --mount=type=secret,id=ID is to see")
@click.option("--no-cache", is_flag=True, help="run every instruction, whatever earlier builds left")
@click.option("--pull", is_flag=True, help="look for newer base images")
@click.option("--build-user", default="", metavar="NAME", help="whose ids and whose cache to use [default: local]")
def build(
    context: str,
    name: str,
    file: str,
    build_args: tuple[str, ...],
    target: str,
    secrets: tuple[str, ...],
    no_cache: bool,
    pull: bool,
    build_user: str,
) -> int:
    """Build an image from a Dockerfile, with the host's buildah, for `dockless run` and `push`."""
    from runner.cli import build as command

    return command.main(
        name, context, os.environ,
        file=file, build_args=build_args, target=target, secrets=secrets, no_cache=no_cache, pull=pull, build_user=build_user,
    )  # fmt: skip


@dockless.command()
@click.argument("image")
@click.argument("destination", default="")
def push(image: str, destination: str) -> int:
    """Copy a stored image to its registry, or to the name DESTINATION, with the host's skopeo."""
    from runner.cli import build as command

    return command.main_of_push(image, destination, os.environ)


@dockless.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def images(as_json: bool) -> None:
    """List the stored images."""
    from runner.image import images as stored

    rows = [
        {"name": name, "digest": image.digest, "id": image.config_digest, "platform": image.platform, "size": image.size}
        for name, image in stored.all(open_all(os.environ).store)
    ]
    _print(rows, as_json, ("name", "id", "platform", "size"), {"id": show.short_digest, "size": show.size})


@dockless.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
def rmi(images: tuple[str, ...]) -> None:
    """Forget images; what no other image needs is deleted."""
    from runner.image import images as stored
    from runner.image import reference
    from runner.job import collect

    around = open_all(os.environ)
    for image in images:
        if not stored.remove(around.store, image) and not stored.remove(around.store, reference.canonical(image)):
            raise errors.UserError(f"image {image} is not in the store", "`dockless images` lists what is")
    click.echo(f"freed {show.size(collect.collect(around.store))}")


@dockless.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def ps(as_json: bool) -> None:
    """List the jobs on this machine and their containers."""
    from runner.job import state

    rows = [
        {
            "job": job.key, "build_user": job.build_user.name, "slot": job.slot, "keeper": job.keeper.pid, "alive": is_alive,
            "created": job.created, "containers": ",".join(job.containers),
        }
        for job, is_alive in state.every(open_all(os.environ).store)
    ]  # fmt: skip
    _print(rows, as_json, ("job", "build_user", "slot", "keeper", "alive", "created", "containers"), {"created": show.age})


@dockless.command()
@click.option("--dry-run", is_flag=True, help="say what would be removed, and why")
@click.option("--high", type=click.IntRange(0, 100), metavar="PERCENT", help="the disk is too full above this [default: gc.high]")
@click.option("--low", type=click.IntRange(0, 100), metavar="PERCENT", help="then go on down to this [default: gc.low]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def gc(dry_run: bool, high: int | None, low: int | None, as_json: bool) -> None:
    """Remove what nobody needs and what exceeds its limit; when the disk is too full, what was used longest ago."""
    from runner.cli import disk

    disk.gc(open_all(os.environ), high=high, low=low, dry_run=dry_run, as_json=as_json)


@dockless.command()
@click.option("-v", "--verbose", is_flag=True, help="list single images, volumes and build storage")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def df(verbose: bool, as_json: bool) -> None:
    """Show what takes room on the disk, and how much of it gc could free."""
    from runner.cli import disk

    disk.df(open_all(os.environ), verbose=verbose, as_json=as_json)


@dockless.command()
def verify() -> int:
    """Check every stored blob and layer against its digest; what is damaged is replaced or fetched again."""
    from runner.cli import verify as check

    return check.main(open_all(os.environ), os.environ)


@dockless.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--account", default="", metavar="NAME", help="check this account (as root: the configured one)")
def doctor(as_json: bool, account: str) -> int:
    """Check every prerequisite, and name the command that mends what is missing."""
    from runner.cli import doctor as checks

    return checks.main(as_json=as_json, account=account, environ=os.environ)


@dockless.command()
@click.option("--account", default="", metavar="NAME", help="whose engine it is [default: the configured one, dockless]")
@click.option("--slices", default=64, show_default=True, type=click.IntRange(2, 4096), metavar="N", help="build users to grant ids for")
@click.option("--service", default="gitlab-runner", show_default=True, metavar="UNIT", help="the systemd service of the CI agent")
@click.option("--no-systemd", is_flag=True, help="leave systemd alone, as on a machine without it")
@click.option("--dry-run", is_flag=True, help="only print what would be changed")
@click.option("--undo", is_flag=True, help="take it all back; account and ids stay while there is a store")
@click.option("--purge", is_flag=True, help="with --undo: remove the store, and then account and ids, as well")
@click.option("--views", "only", flag_value="views", help="only mount the views, as at boot")
@click.option("--settle", "only", flag_value="settle", hidden=True)
@click.option("--delegate", "only", flag_value="delegate", hidden=True)
def setup(account: str, slices: int, service: str, no_systemd: bool, dry_run: bool, undo: bool, purge: bool, only: str | None) -> int:
    """Prepare the machine, as root and once: account, ids, views of shared layers, delegation. Prints each change before making it."""
    from runner.cli import setup as root

    return root.main(
        os.path.abspath(sys.argv[0]), os.environ,
        account=account, slices=slices, service="" if no_systemd else service, dry_run=dry_run, undo=undo, purge=purge, only=only or "",
    )  # fmt: skip


@dockless.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")), metavar="SHELL")
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(dockless completion bash)"."""
    from click import shell_completion

    found = shell_completion.get_completion_class(shell)
    if found is None:
        raise errors.Bug(f"click has no completion for {shell}")
    click.echo(found(dockless, {}, "dockless", "_DOCKLESS_COMPLETE").source())


@dockless.command()
def version() -> None:
    """Print the version."""
    click.echo(f"dockless {__version__}")


def complete() -> int | None:
    """Answer a shell that asks for completions, by the variable of `completion`; None if none asks."""
    from click import shell_completion

    instruction = os.environ.get("_DOCKLESS_COMPLETE", "")
    return shell_completion.shell_complete(dockless, {}, "dockless", "_DOCKLESS_COMPLETE", instruction) if instruction else None


def _print(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...], formats: dict[str, Callable[[Any], str]]) -> None:
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        click.echo()
    else:
        click.echo(show.table([[formats.get(column, str)(row[column]) for column in columns] for row in rows], columns), nl=False)

"""`dockless setup`: what root does once, with every change printed before it is made, and how it is taken back."""

import os
from collections.abc import Mapping

import click

from runner import config_cache, config_file, errors, log
from runner.kernel import accounts
from runner.setup import apply, delegation, machine, plan
from runner.setup.machine import Wishes


def main(
    program: str, environ: Mapping[str, str], *, account: str, slices: int, service: str, dry_run: bool, undo: bool, purge: bool, only: str
) -> int:
    """Carry out, or with `dry_run` only print, what is missing or what is to go; `only` is "views", "settle", "delegate" or "" for all."""
    settings = config_file.load(config_cache.locate(environ, home=""))
    wishes = Wishes(
        account=account or settings.account,
        state_dir=environ.get("DOCKLESS_STATE", "") or settings.state_dir,
        slices=slices,
        service=service,
        program=program,
    )
    if os.geteuid() != 0:
        raise errors.UserError(
            "setup changes the machine, which only root may", f"sudo {program} setup, with --dry-run to see first what it would do"
        )
    os.umask(0o022)
    if only == "delegate":
        owner = accounts.find(wishes.account)
        if owner is None:
            raise errors.UserError(f"account {wishes.account} does not exist", "dockless setup makes it")
        click.echo(f"delegated {delegation.hand_over(owner)}")
        return 0
    if only == "settle":
        apply.settle(wishes)
        return 0
    if purge and not undo:
        raise errors.UserError("--purge belongs to --undo", "dockless setup --undo --purge removes the store as well")
    _carry_out(wishes, undo=undo, purge=purge, only=only, dry_run=dry_run)
    return 0


def _carry_out(wishes: Wishes, *, undo: bool, purge: bool, only: str, dry_run: bool) -> None:
    def wanted() -> list[plan.Change]:
        found = machine.look(wishes)
        changes = plan.undo(wishes, found, purge=purge) if undo else plan.setup(wishes, found)
        return [change for change in changes if not only or change.kind == only]

    changes = wanted()
    if not changes:
        click.echo("nothing to do")
    if dry_run:
        for change in changes:
            click.echo(f"would {change.words}")
        return
    while changes:
        # one after the other, and what is next is found out afterwards: it may depend on what was made
        click.echo(changes[0].words)
        apply.make(changes[0], wishes)
        after = wanted()
        if after[:1] == changes[:1]:
            raise errors.Bug(f"after it was done this is still to be done: {changes[0].words}")
        changes = after
    _say_rest(wishes, undo=undo)


def _say_rest(wishes: Wishes, *, undo: bool) -> None:
    found = machine.look(wishes)
    if undo and found.has_store and found.record:
        log.say(f"account {wishes.account} and its ids stay: {found.store.root} has files of theirs (--purge removes it and them)")
    if not undo and not found.has_systemd:
        log.say(f"there is no systemd here: run `{wishes.program} setup --views` at every boot")

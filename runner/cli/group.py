"""A group of commands that names the nearest one when one is misspelt."""

import difflib

import click

from runner import errors


class Group(click.Group):
    """As click's, with our words."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with a sentence and a hint."""
        is_typed = not ctx.resilient_parsing  # a completion has nothing to complain about
        if is_typed and args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            where = ctx.command_path
            raise errors.UserError(
                f"{where}: there is no command {args[0] or repr(args[0])}",
                f"did you mean `{where} {near[0]}`?" if near else f"see `{where} --help`",
            )
        return super().resolve_command(ctx, args)

"""A group of commands whose help tells each command's first sentence whole."""

from __future__ import annotations

import click


class Group(click.Group):
    """click cuts a sentence where the line ends; here it goes on in the next."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, found.get_short_help_str(limit=400)) for name, found in commands if found and not found.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

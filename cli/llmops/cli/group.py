"""Groups of commands: one whose help tells each first sentence whole, and one that imports none of them for it."""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

import click


class Group(click.Group):
    """click cuts a sentence where the line ends; here it goes on in the next."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, found.get_short_help_str(limit=400)) for name, found in commands if found and not found.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class LazyGroup(click.Group):
    """Knows its commands by name and sentence; each is `command` in the module of its name in `package`."""

    known: ClassVar[dict[str, str]]
    package: ClassVar[str]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.known:
            return None
        found: click.Command = import_module(f"{self.package}.{cmd_name.replace('-', '_')}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.known.items()))

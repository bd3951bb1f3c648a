"""`llmops finetune CONFIG`, and what is done with its runs. Subcommands are imported when they are asked for."""

from __future__ import annotations

import click

from llmops.cli.group import LazyGroup
from llmops.core.errors import did_you_mean

COMMANDS: dict[str, str] = {
    "run": "Carry a job from data to a registered challenger (`llmops finetune CONFIG` is short for it).",
    "loop": "Learn from the thumbs that were recorded, and offer a challenger.",
    "resume": "Go on with a run as it was begun.",
    "list": "Print the runs, newest first.",
    "show": "Print a run: where it stands, what was checked, what came of it.",
    "prove-resume": "Kill a short run at random moments, and show that its weights are those of an undisturbed one.",
    "export": "Write a result for other engines: merged, in 8 or 4 bits, with proof.",
    "search": "Try values of a job's keys, and keep those with the least held-out loss.",
}
"""Each command's module is `llmops.cli.commands.finetune.<name>`, with underscores."""


class FinetuneGroup(LazyGroup):
    """A file in a command's place is a job to run."""

    known = COMMANDS
    package = __name__

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        first = args[0] if args else ""
        if first.endswith((".yaml", ".yml")) or "/" in first:
            args = ["run", *args]
        elif first and not first.startswith("-") and first not in COMMANDS:
            hint = did_you_mean(first, COMMANDS) or "name a job file, or see `llmops finetune --help`"
            raise click.UsageError(f"no such command `{first}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options of a run may stand before its file: `llmops finetune --plan CONFIG`."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("finetune", cls=FinetuneGroup)
def command() -> None:
    """Train a model on your data, and hand the result to the gates: `llmops finetune CONFIG`."""

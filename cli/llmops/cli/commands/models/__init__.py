"""`llmops models`: what is registered, what each version is made of, and its story. Reading imports no MLflow."""

from __future__ import annotations

import click

from llmops.cli.commands.models import listing, making, story
from llmops.cli.group import Group
from llmops.cli.model_gates import compare, validate


@click.group("models", cls=Group)
def command() -> None:
    """List, show, register and compare versions; tell an asset's story."""


for _subcommand in (
    listing.list_,
    listing.show,
    making.register,
    making.diff,
    validate,
    compare,
    story.history,
    story.lineage,
    making.policy,
    listing.repair,
):
    command.add_command(_subcommand)

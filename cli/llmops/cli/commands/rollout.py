"""`llmops rollout`: where versions stand on their way to users."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.group import Group
from llmops.cli.output import json_option, print_json, print_table
from llmops.cli.registry_job import config_option, existing_registry, exists, job_state


@click.group("rollout", cls=Group)
def command() -> None:
    """Show where versions stand on their way to users."""


@command.command("status")
@click.argument("name", required=False)
@config_option
@json_option
def status(name: str | None, config: Path | None, as_json: bool) -> None:
    """Print the last promotion of each version, of one asset or of all: its state, and what it waits for."""
    from llmops.registry.promotion import Promoter

    state = job_state(config)
    found = []
    if name is not None or exists(state):
        with existing_registry(state, name or "") as registry:
            found = Promoter(registry).status(name)
    if as_json:
        print_json([promotion.as_json() for promotion in found])
        return
    rows = [
        (item.ref, item.state.phrase, "; ".join(f"{need.what}: {need.why}" for need in item.needs) or item.why,
         f"{item.changed_at:%F %T}", item.changed_by)
        for item in found
    ]  # fmt: skip
    columns = ("version", "state", "waits for, or why", "since (UTC)", "by")
    print_table(columns, rows, empty="no version was promoted yet; `llmops promote REF` begins")

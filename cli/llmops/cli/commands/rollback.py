"""`llmops rollback`: the previous champion is champion again."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.output import json_option, print_json, say
from llmops.cli.registry_job import config_option, existing_registry, job_state
from llmops.core.errors import UserError


@click.command("rollback")
@click.argument("name")
@click.option("--reason", help="What went wrong; it stays in the history.")
@click.option("--from", "from_version", type=int, help="The champion that is meant: refused where it is another.")
@click.option("--plan", is_flag=True, help="Only say what would happen.")
@config_option
@json_option
def command(
    name: str, reason: str | None, from_version: int | None, plan: bool, config: Path | None, as_json: bool
) -> None:
    """Make the previous champion of NAME champion again. Run again with the same reason, it does nothing more."""
    from llmops.registry.promotion import Promoter

    with existing_registry(job_state(config), name) as registry:
        promoter = Promoter(registry)
        if plan:
            planned = promoter.plan_rollback(name).as_json()
            print_json(planned) if as_json else click.echo(
                f"would make {name}/{planned['to_version']} champion in place of {name}/{planned['from_version']}"
            )
            return
        if reason is None:
            raise UserError("a rollback needs a reason", hint='--reason "what went wrong"')
        done = promoter.rollback(name, reason, from_version=from_version)
    if as_json:
        print_json(done.as_json())
        return
    already = "had been rolled back already, and " if done.again else ""
    click.echo(f"{already}{done.name}/{done.to_version} is champion in place of {done.name}/{done.from_version}")
    say(f"`llmops models history {done.name}` tells the story; evidence {done.evidence_id[:12]}")

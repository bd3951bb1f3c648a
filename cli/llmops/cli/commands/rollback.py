"""`llmops rollback`: the previous champion is champion again, or nobody is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import json_option, print_json, say
from llmops.cli.registry_job import config_option, existing_registry, job_state
from llmops.core.errors import UserError

if TYPE_CHECKING:
    from llmops.registry.promotion import Promoter, Retirement, Rollback


@click.command("rollback")
@click.argument("name")
@click.option("--reason", help="What went wrong; it stays in the history.")
@click.option("--from", "from_version", type=int, help="The champion that is meant: refused where it is another.")
@click.option("--retire", is_flag=True, help="Leave nobody in its place: readers are told that there is no champion.")
@click.option("--plan", is_flag=True, help="Only say what would happen.")
@config_option
@json_option
def command(name: str, retire: bool, plan: bool, config: Path | None, as_json: bool, **why: str | int | None) -> None:
    """Make the previous champion of NAME champion again. Run again with the same reason, it does nothing more."""
    from llmops.registry.promotion import Promoter

    reason, from_version = why["reason"], why["from_version"]
    assert from_version is None or isinstance(from_version, int)
    with existing_registry(job_state(config), name) as registry:
        promoter = Promoter(registry)
        if plan:
            _plan(promoter, name, retire, as_json)
            return
        if reason is None:
            raise UserError("a rollback needs a reason", hint='--reason "what went wrong"')
        undo = promoter.retire if retire else promoter.rollback
        done: Rollback | Retirement = undo(name, str(reason), from_version=from_version)
    if as_json:
        print_json(done.as_json())
        return
    click.echo(_line(done))
    say(f"`llmops models history {done.name}` tells the story; evidence {done.evidence_id[:12]}")


def _plan(promoter: Promoter, name: str, retire: bool, as_json: bool) -> None:
    if retire:
        champion = promoter.plan_retirement(name)
        planned = {"name": str(champion.name), "from_version": champion.version, "to_version": None}
        line = f"would retire {champion.ref}; {champion.name} would have no champion"
    else:
        planned = promoter.plan_rollback(name).as_json()
        line = f"would make {name}/{planned['to_version']} champion in place of {name}/{planned['from_version']}"
    print_json(planned) if as_json else click.echo(line)


def _line(done: Rollback | Retirement) -> str:
    told = done.as_json()
    if told["to_version"] is None:
        already = "had been retired already: " if done.again else ""
        return f"{already}{done.name} has no champion in place of {done.name}/{told['from_version']}"
    already = "had been rolled back already, and " if done.again else ""
    return f"{already}{done.name}/{told['to_version']} is champion in place of {done.name}/{told['from_version']}"

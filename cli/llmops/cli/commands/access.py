"""`llmops access`: who may do what, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.group import Group
from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import config_option, existing_registry, job_state

if TYPE_CHECKING:
    from llmops.registry.access import Holding

plan_option = click.option("--plan", is_flag=True, help="Only say what it would change.")
to_option = click.option(
    "--to", "to", required=True, metavar="PRINCIPAL", help="key:ID, group:NAME, a person's id, local."
)


@click.group("access", cls=Group)
def command() -> None:
    """Grant, revoke and show who may do what."""


@command.command("grant")
@click.argument("privilege")
@click.argument("on")
@to_option
@plan_option
@config_option
@json_option
def grant(privilege: str, on: str, to: str, plan: bool, config: Path | None, as_json: bool) -> None:
    """Give PRIVILEGE on ON: a catalog (prod), a schema (prod.fraud), an asset (prod.fraud.clf), `*`, or tag:NAME.

    It is held there and on everything beneath, now and later. `OWNER` makes the principal the owner of ON.
    """
    from llmops.registry.access import Privilege

    with existing_registry(job_state(config)) as registry:
        place = registry.grants.place(on)
        if privilege.upper() in ("OWNER", "OWNERSHIP"):
            change = registry.grants.own(place, to, plan=plan)
        else:
            change = registry.grants.grant(Privilege.parse(privilege), place, to, plan=plan)
    if as_json:
        print_json(change.as_json())
        return
    say(change.sentence(plan=plan))
    if change.enforces:
        begins = "would be" if plan else "is"
        say(f"access {begins} enforced from now on: the account `local` owns everything until you give that away")


@command.command("revoke")
@click.argument("privilege")
@click.argument("on")
@click.option("--from", "--to", "to", required=True, metavar="PRINCIPAL", help="To whom it was granted.")
@plan_option
@config_option
@json_option
def revoke(privilege: str, on: str, to: str, plan: bool, config: Path | None, as_json: bool) -> None:
    """Take PRIVILEGE on ON back from whom it was granted to."""
    from llmops.registry.access import Privilege

    with existing_registry(job_state(config)) as registry:
        change = registry.grants.revoke(Privilege.parse(privilege), registry.grants.place(on), to, plan=plan)
    if as_json:
        print_json(change.as_json())
    else:
        say(change.sentence(plan=plan))


@command.command("show")
@click.argument("whom", required=False, metavar="[PRINCIPAL|SECURABLE]")
@config_option
@json_option
def show(whom: str | None, config: Path | None, as_json: bool) -> None:
    """Print what a principal holds, or who holds what on a securable, and why.

    Without an argument: every grant on record, or your own where you don't manage everything.
    """
    with existing_registry(job_state(config)) as registry:
        found: list[Holding] = registry.grants.show(whom)
    if as_json:
        print_json([holding.as_json() for holding in found])
        return
    rows: list[tuple[Any, ...]] = [(h.principal, h.privilege, h.securable, h.why) for h in found]
    empty = "nothing was granted yet; until then everybody may do everything" if whom is None else "nothing"
    print_table(("principal", "privilege", "on", "why"), rows, empty=empty)

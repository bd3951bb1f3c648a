"""`llmops promote`: take a version as far towards champion as its evidence and approvals allow, or withdraw it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import json_option, print_json, say
from llmops.cli.promotion_output import GATE_FAILED, exit_code, tell, tell_plan
from llmops.cli.registry_job import config_option, existing_registry, job_state, wake_waiting
from llmops.core.errors import UserError

if TYPE_CHECKING:
    from llmops.registry.promotion import Promoter, Promotion


@click.command("promote")
@click.argument("ref")
@click.option("--to", "catalog", metavar="CATALOG", help="Copy it into this catalog first, and promote it there.")
@click.option("--again", is_flag=True, help="Start anew where an earlier promotion was refused or withdrawn.")
@click.option("--withdraw", is_flag=True, help="End the promotion that is under way; needs --reason.")
@click.option("--reason", help="Why it is withdrawn; it stays in the history.")
@click.option("--plan", is_flag=True, help="Only say what would happen, and which gates are missing.")
@config_option
@json_option
def command(ref: str, plan: bool, config: Path | None, as_json: bool, **how: str | bool | None) -> int:
    """Take REF (dev.fraud.fraud_clf/3) through the gates of its policy; run it again to go on.

    It goes as far as the evidence on file allows. Exit code 3: a gate failed, is inconclusive, or has no evidence yet.
    """
    from llmops.registry.promotion import Promoter

    catalog, reason, again = how["catalog"], how["reason"], bool(how["again"])
    if how["withdraw"] and (catalog or again):
        raise UserError("--withdraw goes with neither --to nor --again")
    if reason is not None and not how["withdraw"]:
        raise UserError("--reason goes with --withdraw")
    with existing_registry(job_state(config), ref) as registry:
        promoter = Promoter(registry)
        if how["withdraw"]:
            promotion = _withdraw(promoter, ref, reason, plan)
        elif plan:
            return _plan(promoter, ref, catalog, as_json)
        else:
            promotion = promoter.promote(_copied(promoter, ref, catalog), again=again)
    if how["withdraw"]:
        if not plan:
            wake_waiting(promotion, job_state(config), principal=registry.authority.principal)
        _tell_withdrawal(promotion, plan, as_json)
        return 0
    if as_json:
        print_json(promotion.as_json())
        return exit_code(promotion)
    return tell(promotion)


def _plan(promoter: Promoter, ref: str, catalog: str | bool | None, as_json: bool) -> int:
    found = promoter.plan(ref)
    target = promoter.plan_copy(ref, str(catalog)) if catalog else None
    if as_json:
        print_json(found.as_json() | {"copy_to": str(target) if target else None})
        return GATE_FAILED if found.missing and not catalog else 0
    if target is not None:
        click.echo(f"would register {found.version.ref} as {target}, which then needs evidence of its own")
        return 0
    tell_plan(found)
    return GATE_FAILED if found.missing else 0


def _copied(promoter: Promoter, ref: str, catalog: str | bool | None) -> str:
    """The version to promote: the one that was named, or its copy in another catalog."""
    if not catalog:
        return ref
    made = promoter.copy(ref, str(catalog))
    say(f"{ref} is {made.ref}")
    return str(made.ref)


def _withdraw(promoter: Promoter, ref: str, reason: str | bool | None, plan: bool) -> Promotion:
    return promoter.plan_withdrawal(ref) if plan else promoter.withdraw(ref, str(reason or ""))


def _tell_withdrawal(promotion: Promotion, plan: bool, as_json: bool) -> None:
    if as_json:
        print_json(promotion.as_json())
    elif plan:
        click.echo(f"would withdraw {promotion.ref}, which is {promotion.state.phrase}")
    else:
        click.echo(f"{promotion.ref} is withdrawn ({promotion.why})")
        say(f"`llmops promote {promotion.ref} --again` begins anew")

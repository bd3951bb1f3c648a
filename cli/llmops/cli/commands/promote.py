"""`llmops promote`: take a version as far towards champion as its evidence and approvals allow."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.output import json_option, print_json, say
from llmops.cli.promotion_output import GATE_FAILED, exit_code, tell, tell_plan
from llmops.cli.registry_job import config_option, existing_registry, job_state


@click.command("promote")
@click.argument("ref")
@click.option("--to", "catalog", metavar="CATALOG", help="Copy it into this catalog first, and promote it there.")
@click.option("--again", is_flag=True, help="Start anew where an earlier promotion of this version was refused.")
@click.option("--plan", is_flag=True, help="Only say what would happen, and which gates are missing.")
@config_option
@json_option
def command(ref: str, catalog: str | None, again: bool, plan: bool, config: Path | None, as_json: bool) -> int:
    """Take REF (dev.fraud.fraud_clf/3) through the gates of its policy; run it again to go on.

    It goes as far as the evidence on file allows. Exit code 3: a gate failed, is inconclusive, or has no evidence yet.
    """
    from llmops.registry.promotion import Promoter

    with existing_registry(job_state(config), ref) as registry:
        promoter = Promoter(registry)
        if plan:
            found = promoter.plan(ref)
            target = promoter.plan_copy(ref, catalog) if catalog else None
            if as_json:
                print_json(found.as_json() | {"copy_to": str(target) if target else None})
                return GATE_FAILED if found.missing and not catalog else 0
            if target is not None:
                click.echo(f"would register {found.version.ref} as {target}, which then needs evidence of its own")
                return 0
            tell_plan(found)
            return GATE_FAILED if found.missing else 0
        if catalog:
            made = promoter.copy(ref, catalog)
            say(f"{ref} is {made.ref}")
            ref = str(made.ref)
        promotion = promoter.promote(ref, again=again)
    if as_json:
        print_json(promotion.as_json())
        return exit_code(promotion)
    return tell(promotion)

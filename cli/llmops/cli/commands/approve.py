"""`llmops approve`: say yes or no for a group, or take it back."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.output import json_option, print_json
from llmops.cli.promotion_output import tell
from llmops.cli.registry_job import config_option, existing_registry, job_state, wake_waiting


@click.command("approve")
@click.argument("ref")
@click.option("--group", required=True, help="The group you speak for.")
@click.option("--comment", default="", help="Why; it stays in the history.")
@click.option("--deny", "decision", flag_value="deny", help="Say no: the promotion ends.")
@click.option("--revoke", "decision", flag_value="revoke", help="Take back what you said.")
@click.option("--plan", is_flag=True, help="Only say whether you may, and who else is waited for.")
@config_option
@json_option
def command(ref: str, group: str, decision: str | None, plan: bool, as_json: bool, **options: object) -> None:
    """Approve the promotion of REF for a group. Whoever made the version or started the promotion may not.

    The key in LLMOPS_KEY says who you are. `llmops promote REF` goes on once every group has approved.
    """
    from llmops.registry.promotion import Promoter

    config, comment = options["config"], str(options["comment"])
    assert config is None or isinstance(config, Path)
    with existing_registry(job_state(config), ref) as registry:
        promoter = Promoter(registry)
        if plan:
            waiting = promoter.plan_word(ref, group, decision or "approve")
            print_json({"ref": ref, "group": group, "waiting": waiting}) if as_json else click.echo(
                f"you may speak for {group}; waiting for: {', '.join(waiting) or 'nobody'}"
            )
            return
        say_it = {"deny": promoter.deny, "revoke": promoter.revoke}.get(decision or "", promoter.approve)
        promotion = say_it(ref, group, comment)
    wake_waiting(promotion, job_state(config), principal=registry.authority.principal)
    if as_json:
        print_json(promotion.as_json())
    else:
        tell(promotion)

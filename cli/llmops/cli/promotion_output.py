"""How commands print where a promotion stands, what it waits for, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmops.cli.output import say

if TYPE_CHECKING:
    from llmops.registry.promotion import Plan, Promotion

GATE_FAILED = 3


def tell(promotion: Promotion) -> int:
    """One line with the state, one a need, the next command; gives the exit code."""
    from llmops.registry.promotion import State

    why = f" ({promotion.why})" if promotion.why else ""
    click.echo(f"{promotion.ref} is {promotion.state.phrase}{why}")
    for need in promotion.needs:
        click.echo(f"  needs {need.what}: {need.why}")
    if promotion.state is State.AWAITING_APPROVAL:
        groups = [need.group for need in promotion.needs if need.group]
        say(f"`llmops approve {promotion.ref} --group {groups[0] if groups else 'GROUP'}` approves it")
    elif promotion.state is State.WITHDRAWN:
        say(f"`llmops promote {promotion.ref} --again` begins anew")
    elif promotion.refused:
        say(f"`llmops models show {promotion.ref}` shows its evidence")
    elif not promotion.ended:
        say(f"`llmops promote {promotion.ref}` goes on")
    return exit_code(promotion)


def exit_code(promotion: Promotion) -> int:
    return GATE_FAILED if promotion.refused else 0


def tell_plan(plan: Plan) -> None:
    """The state, each gate, and the next step."""
    from llmops.registry.promotion.machine import Step

    click.echo(f"{plan.version.ref} is {plan.state.phrase}; stages: {', '.join(s.phrase for s in plan.stages)}")
    for gate, finding in plan.gates.items():
        detail = finding.evidence_id[:12] if finding.evidence_id else ""
        click.echo("  " + " ".join(part for part in (f"{gate}:", finding.verdict.value, detail, finding.why) if part))
    if isinstance(plan.due, Step):
        click.echo(f"next: {plan.due.to.phrase}" + (f" ({plan.due.why})" if plan.due.why else ""))
    for need in [] if isinstance(plan.due, Step) else plan.due.needs:
        click.echo(f"  needs {need.what}: {need.why}")

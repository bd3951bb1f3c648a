"""`llmops finetune loop`: what people thought of answers becomes a challenger, or the plan of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import json_option, print_json, say

if TYPE_CHECKING:
    from llmops.finetune.loop import Collected


@click.command("loop")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Only say what would be learned from.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a value over the file's.")
@json_option
def loop(config: Path, plan: bool, overrides: tuple[str, ...], as_json: bool) -> int:
    """Learn from the thumbs that were recorded: collect, train, judge, offer a challenger.

    Without new thumbs it does nothing. Exit code 3: the result was judged, and is not better.
    """
    from llmops.core.config import load_config
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal
    from llmops.finetune import loop as thumbs
    from llmops.finetune.config import FinetuneConfig

    job = load_config(FinetuneConfig, config, overrides=overrides).value
    if plan:
        found, run = thumbs.collect(job), None
    else:
        looped = thumbs.loop(job, principal=acting_principal(job.state, REGISTRY_SCOPE), listen=_listen)
        found, run = looped.collected, looped.run
    if as_json:
        print_json(found.as_json() | {"run": None if run is None else run.as_json()})
        return 0
    _tell(found)
    if plan:
        thumbs.require_enough(found, job.loop)
    elif run is None:
        click.echo("nothing new: every thumb was taken by an earlier loop")
    else:
        click.echo(f"{run.version or run.run_id}: trained in {run.steps} steps")
        say(f"next: llmops promote {run.version}" if run.version else f"next: llmops finetune show {run.run_id}")
    return 0


def _tell(found: Collected) -> None:
    click.echo(f"{found.thumbs:,} thumbs of {found.people} people, {found.new:,} of them new")
    click.echo(f"{found.liked:,} answers liked, {found.disliked:,} disliked, {found.rows:,} rows to learn from")
    if found.conflicting:
        click.echo(f"{found.conflicting:,} answers left out: as many liked as disliked them")
    if found.capped:
        click.echo(f"{found.capped:,} thumbs left out: one person gave more than their share")


def _listen(event: Any) -> None:
    """Progress on stderr: the stage, and now and then a step."""
    if event.kind == "phase" and not event.done:
        say(event.stage)
    elif event.kind == "step" and event.step % 10 == 0:
        say(f"step {event.step}: loss {event.loss:.4f}")
    elif event.kind in ("warning", "resumed"):
        say(getattr(event, "text", f"resumed after step {event.step}"))

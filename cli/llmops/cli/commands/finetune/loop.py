"""`llmops finetune loop`: what people thought of answers becomes a challenger, or the plan of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.finetune_job import acting, load_job
from llmops.cli.finetune_launch import confirm, print_submitted
from llmops.cli.finetune_view import unheard
from llmops.cli.output import json_option, print_json, say, set_option
from llmops.core.errors import UserError

if TYPE_CHECKING:
    from llmops.finetune.config import FinetuneConfig
    from llmops.finetune.loop import Collected
    from llmops.finetune.runs import RunRecord


@click.command("loop")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Only say what would be learned from.")
@click.option("--yes", is_flag=True, help="Hand the job to its cluster without asking.")
@click.option("--again", is_flag=True, help="Hand in once more what a cluster has not begun, or has lost.")
@set_option
@json_option
def command(config: Path, overrides: tuple[str, ...], as_json: bool, **how: bool) -> int:
    """Learn from the thumbs that were recorded: collect, train, judge, offer a challenger.

    Without new thumbs it does nothing. Where `launch.kind` names a cluster the job is handed in, and the next loop
    takes its result up. Exit code 3: the result was judged, and is not better.
    """
    from llmops.finetune import loop as thumbs
    from llmops.finetune.launch import inside

    job, place = load_job(config, overrides), inside()
    if place is not None and not place.alone:
        raise UserError(f"this process is {place}, and a loop is one process", hint="call it outside the launcher")
    if how["plan"]:
        return _planned(job, as_json)
    if job.launch.kind != "local" and place is None:
        return _turned(job, config, as_json, how)
    looped = thumbs.loop(job, principal=acting(job.state), listen=unheard(_listen, sys.stderr))
    if as_json:
        print_json(looped.collected.as_json() | {"run": None if looped.run is None else looped.run.as_json()})
        return 0
    _tell(looped.collected)
    if looped.run is not None:
        _came(looped.run)
    else:
        _nothing(looped.collected)
    return 0


def _planned(job: FinetuneConfig, as_json: bool) -> int:
    from llmops.finetune import loop as thumbs

    found = thumbs.collect(job)
    if as_json:
        print_json(found.as_json() | {"run": None})
        return 0
    _tell(found)
    thumbs.require_enough(found, job.loop)
    return 0


def _turned(job: FinetuneConfig, file: Path, as_json: bool, how: dict[str, bool]) -> int:
    """A turn of a loop that trains on a cluster."""
    from llmops.finetune.handed import turn

    made = turn(
        job,
        principal=acting(job.state),
        path=file,
        confirm=lambda: confirm(job, file, sure=how["yes"]),
        again=how["again"],
    )
    if as_json:
        print_json(made.as_json())
        return 0
    if made.collected is not None:
        _tell(made.collected)
    if made.submitted is not None:
        print_submitted(made.submitted)
        say(f"then: `llmops finetune loop {file}` again, which takes the result up")
    elif made.handed is not None:
        out, run = made.handed, made.run
        stands = "has not begun" if run is None else f"{run.run_id} is {run.stage}, step {run.step} of {run.steps}"
        click.echo(f"handed in to {out.kind} at {out.at}{f' as job {out.job_id}' if out.job_id else ''}: {stands}")
        say("where the cluster has lost it: add --again")
    elif made.run is not None:
        _came(made.run)
    elif made.collected is not None:
        _nothing(made.collected)
    return 0


def _nothing(found: Collected) -> None:
    told = "every thumb was taken by an earlier loop" if found.thumbs else "`llmops serve` records what people think"
    click.echo(f"nothing new: {told}")


def _came(run: RunRecord) -> None:
    click.echo(f"{run.version or run.run_id}: trained in {run.steps} steps")
    say(f"next: llmops promote {run.version}" if run.version else f"next: llmops finetune show {run.run_id}")


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

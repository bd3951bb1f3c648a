"""Hands a job to the cluster that it names: shows what that is, asks where it costs, and says what to do next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import print_json, say
from llmops.core.errors import UserError

if TYPE_CHECKING:
    from llmops.finetune.config import FinetuneConfig
    from llmops.finetune.launch import Submitted


def print_artefacts(job: FinetuneConfig, path: Path, *, as_json: bool) -> None:
    """What would be handed in; nothing is written."""
    from llmops.finetune.launch import artefact_of

    made = artefact_of(job, path)
    if as_json:
        print_json({"kind": job.launch.kind, "files": made.files, "start": made.start, "most": _most(job)})
        return
    click.echo("".join(f"# {name}\n{text}\n" for name, text in made.files.items()))
    say(f"{_sized(job)}. Nothing was written. Without --plan: {made.start.format(folder='FOLDER')}")
    say(
        "Data, base and memory are checked by the first node before it trains; on this machine, now: "
        f"`llmops finetune {path} --plan --set launch.kind=local --set launch.nodes=1`"
    )


def hand_over(job: FinetuneConfig, path: Path | None, *, sure: bool, as_json: bool, only: str | None = None) -> None:
    """Write the files and hand them in.

    Args:
        sure: do not ask.
        only: the run to go on with.

    Raises:
        UserError: nobody can be asked.
        NotFoundError, UnavailableError, StorageError: as `launch.submit`.
    """
    from llmops.finetune.launch import submit

    confirm(job, path, sure=sure)
    done = submit(job, path, only)
    if as_json:
        print_json(done.as_json())
    else:
        print_submitted(done)


def confirm(job: FinetuneConfig, path: Path | None, *, sure: bool) -> None:
    """Ask before something is handed in that costs, unless a person hands it in by hand.

    Raises:
        UserError: nobody can be asked.
    """
    from llmops.finetune.launch import artefact_of

    if sure or artefact_of(job, path).command is None:
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"launch.kind is {job.launch.kind}: this would be handed in, {_sized(job)}",
            where=None if path is None else str(path),
            hint="look at it with --plan, hand it in with --yes; to train on this machine: "
            "--set launch.kind=local --set launch.nodes=1",
            code="not_confirmed",
        )
    click.confirm(f"hand in to {job.launch.kind}: {_sized(job)}?", abort=True, err=True)


def print_submitted(done: Submitted) -> None:
    """What the launcher said, and what to do next."""
    say(done.said or f"written: {', '.join(map(str, done.files))}")
    say(f"Next: {done.next}")


def _sized(job: FinetuneConfig) -> str:
    launch = job.launch
    count, what = launch.gpus or launch.ranks_per_node, "GPU" if launch.gpus else "rank"
    most = _most(job)
    cost = "" if most is None else f", at most {most:,.2f} USD an attempt"
    sizes = f"{launch.nodes} node{'s' * (launch.nodes > 1)} x {count} {what}{'s' * (count > 1)}"
    return f"{sizes} for up to {launch.hours:g} h{cost}"


def _most(job: FinetuneConfig) -> float | None:
    """USD of an attempt that takes all of its time."""
    launch = job.launch
    return (
        None if launch.price_per_gpu_h is None else launch.price_per_gpu_h * launch.nodes * launch.gpus * launch.hours
    )

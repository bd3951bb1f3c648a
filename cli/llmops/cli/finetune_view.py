"""How finetune commands show what they hear: a live picture, plain lines, or JSON lines; results as short tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click
import orjson

from llmops.cli.output import print_table, say

if TYPE_CHECKING:
    from llmops.finetune.config import FinetuneConfig
    from llmops.finetune.engines import Event, Listener
    from llmops.finetune.runs import RunRecord
    from llmops.finetune.train import Planned


@contextmanager
def watching(*, events: bool = False) -> Iterator[Listener]:
    """A listener for the time of a run: drawn on a terminal, told in lines elsewhere.

    Who watches may go away: the training goes on, and what it would have said is in the run's folder.
    """
    from llmops.finetune.progress import Lines, live

    def printed(event: Event) -> None:
        click.echo(orjson.dumps(dict(vars(event))).decode())

    if events:
        yield unheard(printed, sys.stdout)
    elif sys.stderr.isatty():
        with live() as listen:
            yield listen
    else:
        yield unheard(Lines(say), sys.stderr)


def unheard(listen: Listener, stream: TextIO) -> Listener:
    """A listener that goes on where nobody reads any more what it writes to a stream."""

    def told(event: Event) -> None:
        try:
            listen(event)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    return told


def print_record(record: RunRecord, config: FinetuneConfig) -> None:
    """What came of a run, and what to do next."""
    from llmops.finetune.results import FILE
    from llmops.finetune.runs import find_run

    click.echo(f"{record.run_id}: {record.stage} after {record.step} steps, {record.trained_s:.1f} s of training")
    folder = find_run(config.state, record.run_id)
    if (folder.path / FILE).exists():
        print_figures(folder.read(FILE))
    if record.version is not None:
        say(f"registered as {record.version}. Next: `llmops models show {record.version}`")
    else:
        say(f"the result lies in {folder.model}; set track.register_as to have it registered")


def print_planned(planned: Planned) -> None:
    """What a run would do, and what was found of it."""
    plan, data = planned.plan, planned.data["statistics"]
    total = data["total"]
    rows = [
        ("run", planned.run_id),
        ("base", planned.base),
        ("data", f"{total['examples']} examples, {total['rows']} rows, {total['tokens']} tokens"),
        ("supervised", f"{data['supervised_share']:.1%} of the tokens"),
        ("steps", plan["steps"]),
        (
            "a step",
            f"{plan['ranks']} x {plan['accumulation']} x {plan['rows_per_rank']} rows of {plan['width']} tokens",
        ),
        ("on", f"{plan['device']}, {plan['precision']}, {plan['strategy']}"),
        ("memory", planned.memory),
    ]
    print_table(("", ""), rows, empty="")
    click.echo(planned.preflight.text())


def print_checks(found: Mapping[str, Any] | None) -> None:
    if found is not None:
        rows = [(one["name"], one["verdict"], one["what"]) for one in found["checks"]]
        print_table(("check", "verdict", "found"), rows, empty="")


def print_figures(found: Mapping[str, Any] | None) -> None:
    """Held-out figures of base and result."""
    if found is None:
        return
    rows = [
        (one["metric"], _mean(one["before"]), _mean(one["after"]), len(one["after"]))
        for one in found["evaluation"]["scores"]
    ]
    print_table(("held out", "base", "result", "examples"), rows, empty="nothing was held out to judge by")


def _mean(values: Any) -> str:
    return f"{sum(values) / len(values):.4f}" if values else "-"

"""`llmops finetune list`: the runs of a state folder."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.finetune_job import config_option, run_state
from llmops.cli.output import json_option, print_json, print_table


@click.command("list")
@config_option
@json_option
def command(config: Path | None, as_json: bool) -> None:
    """Print the runs, newest first: where each stands, and what it was registered as."""
    from llmops.finetune.runs import list_runs

    records = [folder.record() for folder in list_runs(run_state(config))]
    if as_json:
        print_json([one.as_json() for one in records])
        return
    rows = [
        (one.run_id, one.task, one.stage, f"{one.step}/{one.steps}", one.attempts, one.version, one.problem)
        for one in records
    ]
    columns = ("run", "task", "stage", "step", "attempts", "version", "problem")
    print_table(columns, rows, empty="no runs yet; `llmops finetune CONFIG` starts one")

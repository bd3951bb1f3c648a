"""`llmops finetune CONFIG`: run a job, or with --plan show what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmops.cli.finetune_job import acting, load_job
from llmops.cli.finetune_view import print_planned, print_record, watching
from llmops.cli.output import json_option, print_json, set_option


@click.command("run")
@click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Prepare and check everything, say what it would take; train nothing.")
@click.option("--events", is_flag=True, help="Print one JSON line on stdout for each step and event, as it happens.")
@set_option
@json_option
def command(file: Path, overrides: tuple[str, ...], as_json: bool, **how: Any) -> int:
    """Carry the job of CONFIG from its data to a registered challenger; one that was begun is gone on with.

    Exit codes: 0 done, 1 the job is wrong, 3 preflight or the gate said no, 130 interrupted (and saved).
    """
    from llmops.finetune.train import plan_job, run_job

    config = load_job(file, overrides)
    with watching(events=how["events"]) as listen:
        if how["plan"]:
            planned = plan_job(config, principal=acting(config.state), listen=listen)
        else:
            record = run_job(config, principal=acting(config.state), listen=listen, path=file)
    if how["plan"]:
        if as_json:
            print_json(planned.as_json())
        else:
            print_planned(planned)
        return 3 if planned.preflight.failures else 0
    if as_json:
        print_json(record.as_json())
    else:
        print_record(record, config)
    return 0

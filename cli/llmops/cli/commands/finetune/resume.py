"""`llmops finetune resume RUN`: go on with a run as it was begun."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.finetune_job import acting, config_option, run_state
from llmops.cli.finetune_view import print_record, watching
from llmops.cli.output import json_option, print_json


@click.command("resume")
@click.argument("run_id", metavar="RUN")
@config_option
@json_option
def command(run_id: str, config: Path | None, as_json: bool) -> None:
    """Go on with RUN (its id, or the beginning of it) from its newest whole checkpoint.

    Data or a base that changed meanwhile is refused, and named.
    """
    from llmops.finetune.train import resume_run

    state = run_state(config)
    with watching() as listen:
        record, job = resume_run(run_id, state, principal=acting(state), listen=listen)
    if as_json:
        print_json(record.as_json())
    else:
        print_record(record, job)

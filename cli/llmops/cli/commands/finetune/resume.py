"""`llmops finetune resume RUN`: go on with a run as it was begun."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.finetune_job import acting, config_option, run_state
from llmops.cli.finetune_launch import hand_over
from llmops.cli.finetune_view import print_record, watching
from llmops.cli.output import json_option, print_json
from llmops.core.errors import UserError


@click.command("resume")
@click.argument("run_id", metavar="RUN")
@config_option
@click.option("--yes", is_flag=True, help="Hand the run to its cluster without asking.")
@json_option
def command(run_id: str, config: Path | None, yes: bool, as_json: bool) -> None:
    """Go on with RUN (its id, or the beginning of it) from its newest whole checkpoint.

    Data or a base that changed meanwhile is refused, and named. A run of a cluster is handed in again; name its job
    file with --config, so that it is looked for in the folder that nodes share.
    """
    from llmops.finetune.launch import inside
    from llmops.finetune.train import begun, require_data, resume_run

    state = run_state(config)
    state = state.model_copy(update={"dir": state.root})
    folder, job = begun(run_id, state)
    place = inside()
    if place is not None and not place.alone:
        raise UserError(
            f"this process is {place}, and a run is resumed by one",
            hint=f"start each of them with: `llmops finetune CONFIG --run {folder.run_id}`",
        )
    if job.launch.kind != "local" and place is None and folder.record().stage != "done":
        require_data(folder, job)
        with folder.locked():  # nobody is training it
            pass
        hand_over(job, None, sure=yes, as_json=as_json, only=folder.run_id)
        return
    with watching() as listen:
        record, job = resume_run(folder.run_id, state, principal=acting(state), listen=listen)
    if as_json:
        print_json(record.as_json())
    else:
        print_record(record, job)

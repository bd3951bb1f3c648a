"""`llmops finetune CONFIG`: run a job, hand it to its cluster, or with --plan show what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.finetune_job import acting, load_job
from llmops.cli.finetune_launch import hand_over, print_artefacts
from llmops.cli.finetune_view import print_planned, print_record, watching
from llmops.cli.output import json_option, print_json, say, set_option
from llmops.core.errors import ConfigError

if TYPE_CHECKING:
    from llmops.finetune.config import FinetuneConfig
    from llmops.finetune.launch import Node, Rank


@click.command("run")
@click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Prepare and check everything, say what it would take; train nothing.")
@click.option("--yes", is_flag=True, help="Hand the job to its cluster without asking.")
@click.option("--run", "only", metavar="RUN", help="Only go on with this run: another job, data or base is refused.")
@click.option("--events", is_flag=True, help="Print one JSON line on stdout for each step and event, as it happens.")
@set_option
@json_option
def command(file: Path, overrides: tuple[str, ...], as_json: bool, **how: Any) -> int:
    """Carry the job of CONFIG from its data to a registered challenger; one that was begun is gone on with.

    Where `launch.kind` names a cluster the job is handed in; on its nodes the same command does a node's part.

    Exit codes: 0 done, 1 the job is wrong, 3 preflight or the gate said no, 130 interrupted (and saved).
    """
    from llmops.finetune.launch import inside

    config = load_job(file, overrides)
    place = inside()
    if config.launch.kind != "local" and place is None:
        if how["plan"]:
            print_artefacts(config, file, as_json=as_json)
        else:
            hand_over(config, file, sure=how["yes"], as_json=as_json, only=how["only"])
        return 0
    if place is None and config.launch.nodes > 1:
        raise ConfigError(
            f"launch.kind is local, one machine, and launch.nodes is {config.launch.nodes}",
            where=str(file),
            hint="set launch.kind to torchrun, slurm, trainjob, ray or skypilot, or launch.nodes: 1",
        )
    if how["plan"]:
        return _planned(config, as_json, how["events"])
    return _run(config, file, place, as_json=as_json, **how)


def _planned(config: FinetuneConfig, as_json: bool, events: bool) -> int:
    from llmops.finetune.train import plan_job

    with watching(events=events) as listen:
        planned = plan_job(config, principal=acting(config.state), listen=listen)
    if as_json:
        print_json(planned.as_json())
    else:
        print_planned(planned)
    return 3 if planned.preflight.failures else 0


def _run(config: FinetuneConfig, file: Path, place: Node | Rank | None, *, as_json: bool, **how: Any) -> int:
    if place is not None:
        place.require(config.launch)
    more = {"principal": acting(config.state), "path": file, "only": how["only"]}
    with watching(events=how["events"]) as listen:
        if place is None or place.alone:
            from llmops.finetune.train import run_job

            record = run_job(config, listen=listen, **more)
        else:
            from llmops.finetune.nodes import run_placed

            lent = run_placed(place, config, listen=listen, **more)
            if lent is None:
                say(f"{place}: its part is done; the first one goes on")
                return 0
            record = lent
    if as_json:
        print_json(record.as_json())
    else:
        print_record(record, config)
    return 0

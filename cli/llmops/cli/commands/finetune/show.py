"""`llmops finetune show RUN`: where a run stands, what was checked, what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmops.cli.finetune_job import config_option, run_state
from llmops.cli.finetune_view import print_checks, print_figures
from llmops.cli.output import json_option, print_json, print_table


@click.command("show")
@click.argument("run_id", metavar="RUN")
@config_option
@json_option
def command(run_id: str, config: Path | None, as_json: bool) -> None:
    """Print RUN (its id, or the beginning of it)."""
    from llmops.finetune.journal import read_events, read_metrics
    from llmops.finetune.runs import find_run

    folder = find_run(run_state(config), run_id)
    found: dict[str, Any] = {"run": folder.record().as_json(), "folder": str(folder.path)}
    for name in ("preflight", "result"):
        if (folder.path / f"{name}.json").is_file():
            found[name] = folder.read(f"{name}.json")
    steps = read_metrics(folder)
    found["last_step"] = steps[-1] if steps else None
    found["events"] = read_events(folder)[-20:]
    if as_json:
        print_json(found)
        return
    print_table(("", ""), [(key, value) for key, value in found["run"].items() if value not in (None, "")], empty="")
    print_checks(found.get("preflight"))
    print_figures(found.get("result"))

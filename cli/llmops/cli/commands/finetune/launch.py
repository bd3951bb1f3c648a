"""`llmops finetune launch CONFIG`: hand a job to its cluster."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.output import json_option, print_json, say, set_option


@click.command("launch")
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Print what would be handed in; hand in nothing.")
@set_option
@json_option
def command(config: Path, plan: bool, overrides: tuple[str, ...], as_json: bool) -> None:
    """Hand CONFIG to the cluster that its `launch.kind` names."""
    from llmops.core.config import load_config
    from llmops.core.errors import UserError
    from llmops.finetune.config import FinetuneConfig
    from llmops.finetune.launch import render, submit

    job = load_config(FinetuneConfig, config, overrides=overrides).value
    files = render(job, config)
    if not files:
        raise UserError("launch.kind is local", where=str(config), hint="`llmops finetune CONFIG` runs it here")
    if plan:
        print_json(files) if as_json else click.echo("".join(f"# {name}\n{text}\n" for name, text in files.items()))
        return
    done = submit(job, config)
    if as_json:
        print_json(done.as_json())
        return
    say(done.said or f"written: {', '.join(map(str, done.files))}")
    say(f"Next: {done.next}")

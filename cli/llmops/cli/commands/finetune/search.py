"""`llmops finetune search CONFIG`: better values of a job's keys."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.output import json_option, print_json, print_table, say, set_option


@click.command("search")
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--trials", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Trials of the study.")
@click.option(
    "--space", "spaces", multiple=True, required=True, metavar="KEY=VALUES", help="low..high[:log], or a,b,c."
)
@set_option
@json_option
def command(config: Path, trials: int, spaces: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Try values of CONFIG's keys, and print those with the least held-out loss; goes on where it was stopped."""
    from llmops.finetune.search import Space
    from llmops.finetune.search import search as look

    found = look(config, [Space.parse(one) for one in spaces], trials=trials, overrides=overrides)
    if as_json:
        print_json(found.as_json())
        return
    print_table(("key", "value"), list(found.best.items()), empty="")
    say(f"held-out loss {found.loss:.4f}, the best of {found.trials} trials; {found.pruned} were stopped early")
    say(f"Next: llmops finetune {config} {' '.join(f'--set {key}={value}' for key, value in found.best.items())}")

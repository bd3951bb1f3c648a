"""`llmops finetune prove-resume CONFIG`: a certificate that a killed run ends in the weights of an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.finetune_job import acting, load_job
from llmops.cli.output import json_option, print_json, say, set_option


@click.command("prove-resume")
@click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--kills", type=click.IntRange(1, 200), default=20, show_default=True, help="How often it is killed.")
@click.option("--steps", type=click.IntRange(2), default=40, show_default=True, help="Steps of the short run.")
@click.option("--seed", type=int, default=0, help="Of the moments; the same seed kills at the same ones.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder of the certificate.")
@set_option
@json_option
def command(file: Path, folder: Path | None, overrides: tuple[str, ...], as_json: bool, **how: int) -> int:
    """Run the job of CONFIG twice for a few steps, once killed at random moments, also inside checkpoint writing, and
    compare the weights bit by bit.

    Exit codes: 0 identical, 3 they differ.
    """
    from llmops.finetune.prove import prove

    config = load_job(file, overrides)
    place = folder or config.state.root / "finetune" / "certificates"
    place.mkdir(parents=True, exist_ok=True)  # before the work is done, not after it
    certificate = prove(config, **how, principal=acting(config.state), told=say)
    written = certificate.write(place)
    if as_json:
        print_json(certificate.as_json())
    else:
        click.echo(certificate.text())
        say(f"written to {written}")
    return 0 if certificate.identical else 3

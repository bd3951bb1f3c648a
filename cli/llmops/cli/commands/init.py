"""`llmops init`: a starter project that `llmops up` runs as it is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from llmops.cli.output import say

STARTER = ("configs/rag.yaml", "configs/serve.yaml", "docs/welcome.md")


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
def command(folder: Path) -> None:
    """Write a starter project into FOLDER (this one by default); nothing that exists is touched."""
    template = files("llmops.cli") / "starter"
    for name in STARTER:
        target = folder / name
        if target.exists():
            say(f"kept     {target}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((template / name).read_bytes())
        say(f"written  {target}")
    step = "" if folder == Path() else f"cd {folder} && "
    say(f"next: put documents into {folder / 'docs'}, then run `{step}llmops up`")

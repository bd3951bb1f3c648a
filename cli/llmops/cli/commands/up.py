"""`llmops up`: the main job in one word: ingest, register, serve, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.commands.ingest import refresh_and_register, show
from llmops.cli.jobs import rag_job, serve_job
from llmops.cli.output import say
from llmops.core.errors import ConfigError


@click.command("up")
@click.option("--config", "file", type=click.Path(path_type=Path), help="The rag job; default configs/rag.yaml.")
@click.option("--serve", "door", type=click.Path(path_type=Path), help="The serve job; default configs/serve.yaml.")
@click.option("--port", type=int, help="Port of the chat; default of the serve job.")
def command(file: Path | None, door: Path | None, port: int | None) -> None:
    """Refresh the index, register what changed, and open the chat over it. Ctrl-C stops all."""
    from llmops.serving.server import listening, serve

    job = rag_job(file).value
    serving = serve_job(door, [f"port={port}"] if port is not None else []).value
    if serving.state != job.state:
        raise ConfigError("both jobs need the same `state`", where=f"{job.state.root} and {serving.state.root}")
    with listening(serving.host, serving.port):
        pass  # a port in use is told before a long ingest, not after it
    show(*refresh_and_register(job))
    serve(serving, announce=lambda url: say(f"chat is open at {url}   (Ctrl-C stops it)"))

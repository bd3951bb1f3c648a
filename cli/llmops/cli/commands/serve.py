"""`llmops serve`: the chat page and its API, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.jobs import serve_job
from llmops.cli.output import say, set_option


@click.command("serve")
@click.option("--config", type=click.Path(path_type=Path), help="The serve job; default: configs/serve.yaml.")
@click.option("--host", help="Address to listen on; a public one needs `require_keys`.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@set_option
def command(config: Path | None, host: str | None, port: int | None, overrides: tuple[str, ...]) -> None:
    """Open the chat page and its API over the registered versions. Ctrl-C stops all."""
    if host is not None:
        overrides = (*overrides, f"host={host}")
    if port is not None:
        overrides = (*overrides, f"port={port}")
    job = serve_job(config, overrides).value
    from llmops.rag.curation import Desk
    from llmops.serving.server import serve

    def announce(url: str) -> None:
        say(f"chat at {url} (API at {url}/v1, registry at {url}/registry, Ctrl-C stops)")

    say("loading ...")
    serve(job, announce=announce, indexes=Desk(job.state))

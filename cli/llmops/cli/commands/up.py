"""`llmops up`: the main job in one word: ingest, register, open gateway and chat, start workflows, until Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.commands.ingest import refresh_and_register, show
from llmops.cli.gateway_job import GATEWAY_FILE, gateway_job
from llmops.cli.jobs import rag_job, serve_job
from llmops.cli.output import say
from llmops.core.errors import ConfigError
from llmops.core.secret import resolve_document
from llmops.core.state import StateConfig

if TYPE_CHECKING:
    from llmops.registry.workflow import Job

STOP_S = 60.0
WORKFLOWS = Path("configs/workflows")


@click.command("up")
@click.option("--config", "file", type=click.Path(path_type=Path), help="The rag job; default configs/rag.yaml.")
@click.option("--serve", "door", type=click.Path(path_type=Path), help="The serve job; default configs/serve.yaml.")
@click.option("--port", type=int, help="Port of the chat; default of the serve job.")
def command(file: Path | None, door: Path | None, port: int | None) -> None:
    """Refresh the index, register what changed, and open the chat over it. Ctrl-C stops all.

    Where this folder has a configs/gateway.yaml, its gateway is opened too; workflows of configs/workflows that have a
    `schedule` are started at their times.
    """
    from llmops.core.listen import listening
    from llmops.rag.curation import Desk
    from llmops.serving.server import serve

    job = rag_job(file).value
    serving = serve_job(door, [f"port={port}"] if port is not None else []).value
    if serving.state != job.state:
        raise ConfigError("both jobs need the same `state`", where=f"{job.state.root} and {serving.state.root}")
    jobs = scheduled(job.state)
    with listening(serving.host, serving.port):
        pass  # a port in use is told before a long ingest, not after it
    show(*refresh_and_register(job), then="")
    with _gateway(), _schedules(jobs):
        serve(serving, announce=_announce, indexes=Desk(job.state))


def _announce(url: str) -> None:
    say(f"chat is open at {url}   (Ctrl-C stops it)")


@contextmanager
def _gateway() -> Iterator[None]:
    """This folder's gateway beside the chat, in processes of its own; without its secrets the chat is opened alone."""
    if not GATEWAY_FILE.exists():
        yield
        return
    if missing := missing_secret():
        say(f"the gateway of {GATEWAY_FILE} stays closed: {missing}; the chat does without it")
        yield
        return
    with _beside("gateway", "run"):
        yield


def scheduled(state: StateConfig) -> list[Job]:
    """The workflows of this folder that have a `schedule`.

    Raises:
        ConfigError: one of the files is wrong, or means another state.
    """
    from llmops.registry.workflow import load_job

    jobs = [load_job(file) for file in sorted(WORKFLOWS.glob("*.yaml"))]
    jobs = [job for job in jobs if job.config.schedule is not None]
    if elsewhere := next((job for job in jobs if job.config.state != state), None):
        raise ConfigError("a scheduled workflow needs the `state` of the chat", where=elsewhere.file)
    return jobs


@contextmanager
def _schedules(jobs: list[Job]) -> Iterator[None]:
    """Workflows at their times, in a process of its own; nothing where there are none."""
    from llmops.registry.workflow.schedule import upcoming

    if not jobs:
        yield
        return
    names = ", ".join(f"{job.config.name} (next {', '.join(upcoming(job, 1)) or 'never'})" for job in jobs)
    say(f"workflows start at their times: {names}")
    with _beside("workflow", "schedule", *(job.file for job in jobs)):
        yield


@contextmanager
def _beside(*command: str) -> Iterator[None]:
    """Another of our commands in a process of its own: Ctrl-C is ours alone to hear, and it ends with us."""
    from llmops.gateway.children import die_with_parent

    parent = os.getpid()
    started = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "llmops.cli.main", *command],
        preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - no thread runs yet
        process_group=0,
    )
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def missing_secret() -> str:
    """Which of the gateway's secrets is not there, in words; empty where all are."""
    for name, provider in gateway_job(None).value.providers.items():
        try:
            for reference in provider.references:
                resolve_document(reference)
        except ConfigError as error:
            return f"{error.what} (provider `{name}`)"
    return ""

"""`llmops config`: what a job would run with, and where each value came from."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.group import Group
from llmops.cli.jobs import JOBS, any_job
from llmops.cli.output import json_option, print_json, print_table, say, set_option

file_argument = click.argument("file", type=click.Path(path_type=Path), default=Path("configs/rag.yaml"))


@click.group("config", cls=Group)
def command() -> None:
    """Show, validate and describe configuration files."""


@command.command("show")
@file_argument
@set_option
@json_option
def show(file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print each value of FILE's job and where it came from (default, file:line:column, environment, --set)."""
    loaded = any_job(file, overrides)
    if as_json:
        values = [{"key": key, "value": value, "origin": origin} for key, value, origin in loaded.rows()]
        print_json({"hash": loaded.hash, "values": values})
        return
    print_table(("key", "value", "origin"), loaded.rows(), empty="no values")
    say(f"hash {loaded.hash[:12]}")


@command.command("validate")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
def validate(files: tuple[Path, ...]) -> None:
    """Check FILES; the first problem is shown with its line and column, exit code 1."""
    for file in files:
        any_job(file)
        say(f"{file}: valid")


@command.command("schema")
@click.argument("job", type=click.Choice(sorted(JOBS)))
def schema(job: str) -> None:
    """Print the JSON Schema of a JOB, for editors."""
    print_json(JOBS[job].model_json_schema())

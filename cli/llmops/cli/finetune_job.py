"""Finds the job and the state that finetune commands work on, and in whose name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmops.core.config import load_config
from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    from llmops.core.identity import Principal

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Job file whose `state:` is meant; default: .llmops.",
    )(command)


def load_job(path: Path, overrides: Sequence[str] = ()) -> FinetuneConfig:
    return load_config(FinetuneConfig, path, overrides=overrides).value


def run_state(path: Path | None) -> StateConfig:
    """The state of a job file of any kind, else of this folder; of a job for a cluster that in which nodes work."""
    from llmops.cli.jobs import any_job
    from llmops.finetune.launch.order import running_state

    if path is None:
        return StateConfig()
    job = any_job(path).value
    if isinstance(job, FinetuneConfig):
        return running_state(job)
    found: StateConfig = job.state  # type: ignore[attr-defined]
    return found


def acting(state: StateConfig) -> Principal:
    """The holder of the key in LLMOPS_KEY, else the machine's own account."""
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal

    return acting_principal(state, REGISTRY_SCOPE)

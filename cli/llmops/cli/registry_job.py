"""Finds the state that registry commands work on, and opens its registry as whoever asks: a key's holder, or local."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmops.cli.jobs import RAG_FILE, any_job, serve_job
from llmops.core.errors import NotFoundError
from llmops.core.state import StateConfig

if TYPE_CHECKING:
    from llmops.core.identity import Principal
    from llmops.registry.assets import Registry
    from llmops.registry.promotion import Promotion

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    return click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path),
        help="Job file whose `state:` is meant; default: configs/rag.yaml, else .llmops.",
    )(command)


def job_state(config: Path | None) -> StateConfig:
    """The state of the job file that was named, else of this folder's."""
    if config is None and not RAG_FILE.exists():
        return serve_job(None).value.state
    state: StateConfig = any_job(config or RAG_FILE).value.state  # type: ignore[attr-defined]
    return state


def exists(state: StateConfig) -> bool:
    """Looking must not make a state folder where there is none."""
    return state.is_there


def open_registry(state: StateConfig) -> Registry:
    """The registry, as the holder of the key in LLMOPS_KEY sees it, else as the machine's own account does."""
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal
    from llmops.registry.assets import Registry

    return Registry(state, principal=acting_principal(state, REGISTRY_SCOPE))


def existing_registry(state: StateConfig, wanted: str = "") -> Registry:
    """The registry of a state that is there.

    Raises:
        NotFoundError: nothing was ever registered here.
    """
    if not exists(state):
        raise NotFoundError(
            f"no asset `{wanted}`: nothing is registered" if wanted else "nothing is registered",
            where=str(state.root),
            hint="run `llmops ingest` first, or name a job file with --config",
        )
    return open_registry(state)


def wake_waiting(promotion: Promotion, state: StateConfig, *, principal: Principal) -> None:
    """Let a workflow that waits for a word about this promotion look again at once, where a scheduler runs."""
    from llmops.registry.workflow import Workflows
    from llmops.registry.workflow.tasks import approval_word

    with Workflows(state, principal=principal) as flows:
        flows.wake(approval_word(promotion.ref))

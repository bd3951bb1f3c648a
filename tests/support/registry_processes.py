"""Processes that register, move aliases and die: their work, by importable names, so that a fork server can run it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from llmops.core.errors import LlmopsError
from llmops.core.names import Name
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry import (
    Candidate,
    CodeModel,
    Evidence,
    Kind,
    PromptText,
    Registry,
    Version,
    aliases,
    evidence,
    queries,
)
from llmops.registry.aliases import Move
from llmops.registry.evidence import Method, Subject
from llmops.registry.mlflow_adapter import MlflowStore

CHAT = Name.parse("dev.docs.chat")
MODELS = Path(__file__).parent.parent / "registry" / "models"


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run `target` in a process of its own, forked from one that has imported MLflow and holds no connection."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "tests.support.registry_processes", "tests.support.promotion_processes", "mlflow.pyfunc"]
    )
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def chain(marker: str = "a", *, file: str = "echo.py", **changes: Any) -> Candidate:
    """A chain from code whose digest and configuration follow from `marker`."""
    digest = (marker.encode().hex() * 64)[:64]
    config = {"greeting": marker, "state": {}}
    return Candidate(Kind.CHAIN, CHAT, CodeModel(MODELS / file, config), digest=digest, **changes)


def prompt(text: str) -> Candidate:
    return Candidate(Kind.PROMPT, Name.parse("dev.docs.prompt"), PromptText(text))


def passing(version: Version, *, gate: str = "compare", **changes: Any) -> Evidence:
    """Evidence that a gate passed this version."""
    values: dict[str, Any] = {"verdict": "pass", "actor": "tester", "method": Method(name="test", version="1")}
    return Evidence(asset=Subject.of(version), gate=gate, **(values | changes))


def register_and_die(state: StateConfig, candidate: Candidate, step: str) -> None:
    """Register, and be killed (SIGKILL) right after the named step."""
    from llmops.registry import mlflow_adapter
    from llmops.registry.registration import Registrar

    places = {
        "intent": (Registrar, "_intend"),
        "artefact": (mlflow_adapter, "_log_code"),
        "version": (mlflow_adapter.MlflowStore, "store"),
        "commit": (Registrar, "_commit"),
    }
    owner, name = places[step]
    before = getattr(owner, name)

    def last(*arguments: Any, **options: Any) -> None:
        before(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, last)
    with Registry(state) as registry:
        registry.register(candidate)


def register(state: StateConfig, candidate: Candidate, told: Any) -> None:
    with Registry(state) as registry:
        told.put(registry.register(candidate).version)


def point(state: StateConfig, number: int, etag: str | None, gate: Any, told: Any) -> None:
    """Wait for the others, then move champion; tell the outcome."""
    with open_sql(state) as sql:
        with sql.read() as connection:
            version = queries.version(connection, CHAT, number)
        gate.wait(timeout=120)
        try:
            with sql.begin() as connection:
                evidence_id = evidence.save(connection, passing(version))
                moves = [Move(CHAT, "champion", number, etag, evidence_id)]
                told.put((number, aliases.move(connection, moves, actor=f"process {number}")[0].version))
        except LlmopsError as error:
            told.put((number, error.error_code))


def first_use(state: StateConfig) -> None:
    """Ask MLflow something, where it may have no store yet."""
    assert MlflowStore(state, "dev").aliases() == {}

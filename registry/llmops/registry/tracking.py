"""Runs: what was tried, with which settings and data, and what came of it, in the catalog's tracking store.

A run ends in one of MLflow's words: FINISHED, FAILED where it raised, KILLED where its process died and a later run of
the same key found it. Knows the store through its adapter; what is trained it does not know.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry.mlflow_adapter import MlflowStore

KEY_TAG = "llmops.key"
_LONGEST = 500


@dataclass(frozen=True)
class Dataset:
    """What a run read: a table at a version, or anything else that has a name and a digest."""

    name: str
    digest: str
    context: str = "training"
    version: int | None = None


class Run:
    """One run, open. What is logged is stored when the method returns."""

    def __init__(self, store: MlflowStore, run_id: str) -> None:
        self._store = store
        self.run_id = run_id

    def log(
        self,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        """Log settings, figures and tags in one call; figures that are not numbers are left out."""
        with self._store.client() as (mlflow, client):
            now = int(time.time() * 1000)
            client.log_batch(
                self.run_id,
                metrics=[
                    mlflow.entities.Metric(name, float(value), now, step)
                    for name, value in (metrics or {}).items()
                    if math.isfinite(value)
                ],
                params=[mlflow.entities.Param(name, str(value)[:_LONGEST]) for name, value in (params or {}).items()],
                tags=[mlflow.entities.RunTag(name, value) for name, value in (tags or {}).items()],
            )

    def datasets(self, datasets: list[Dataset]) -> None:
        """Say what was read."""
        with self._store.client() as (mlflow, client):
            entities = mlflow.entities
            inputs = []
            for one in datasets:
                profile = "{}" if one.version is None else f'{{"version": {one.version}}}'
                data = entities.Dataset(one.name, one.digest[:36], "llmops", one.name, profile=profile)
                inputs.append(entities.DatasetInput(data, [entities.InputTag("mlflow.data.context", one.context)]))
            client.log_inputs(self.run_id, datasets=inputs)

    def files(self, texts: Mapping[str, str]) -> None:
        """Keep texts as files of the run, by name: reports, plots, tables."""
        with tempfile.TemporaryDirectory() as folder, self._store.client() as (_, client):
            for name, text in texts.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            client.log_artifacts(self.run_id, folder)


@contextmanager
def running(state: StateConfig, asset: Name, *, key: str, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Open a run of an asset's experiment, and end it by what comes of the block.

    Args:
        key: names the work, such as a workflow's run and task: runs of the same key that are still open belong to
            processes that died, and are closed.
    """
    store = MlflowStore(state, asset.catalog)
    with store.client() as (_, client):
        experiment = store.experiment(client, f"{asset.schema}.{asset.asset}")
        query = f"tags.`{KEY_TAG}` = '{_quoted(key)}' and attributes.status = 'RUNNING'"
        for left in client.search_runs([experiment], query):
            client.set_terminated(left.info.run_id, "KILLED")
        made = client.create_run(experiment, tags={KEY_TAG: key, **(tags or {})}, run_name=asset.asset)
    run = Run(store, made.info.run_id)
    try:
        yield run
    except BaseException:
        _end(store, run, "FAILED")
        raise
    _end(store, run, "FINISHED")


def _end(store: MlflowStore, run: Run, status: str) -> None:
    with store.client() as (_, client):
        client.set_terminated(run.run_id, status)


def _quoted(text: str) -> str:
    return text.replace("'", "_")

"""The tasks of the fraud workflow: bring the data up to a moment, look at them, search for trees, train a version.

Each takes a `TaskContext` and gives JSON values for the tasks after it. They may be killed and repeated at any point.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.core.lake import Lake
from llmops.core.names import Name
from llmops.finetune.classic.data import parse_month
from llmops.finetune.classic.settings import TrainSettings, read_settings

if TYPE_CHECKING:
    from llmops.registry.workflow import TaskContext


def prepare(context: TaskContext) -> dict[str, Any]:
    """Write what happened and became known before `today`; gives the rows written, a table."""
    from llmops.finetune.classic.data import prepare as bring_up_to

    settings, name = _read(context)
    written = bring_up_to(Lake(context.state), name.catalog, settings.world.build(), parse_month(settings.today))
    return {"rows": written, "today": settings.today}


def explore(context: TaskContext) -> dict[str, Any]:
    """Track a report of the data and what simple models reach; gives its run and the baselines' figures."""
    from llmops.finetune.classic.explore import explored, files
    from llmops.finetune.classic.train import inputs_of, parts
    from llmops.registry.tracking import running

    settings, name = _read(context)
    with running(context.state, name, key=_key(context), tags={"kind": "exploration"}) as run:
        found = parts(Lake(context.state), name.catalog, settings)
        report = explored(found.train.table, found.holdout.table, inputs_of(settings))
        figures = {
            f"{model}.{figure}": value for model, one in report["baselines"].items() for figure, value in one.items()
        }
        run.log(params={"today": settings.today, "months": settings.months}, metrics=figures)
        run.files(files(report))
    return {"run_id": run.run_id, "baselines": _finite(report["baselines"])}


def search(context: TaskContext) -> dict[str, Any]:
    """Search for trees in a study of its own file, which `train` takes by `study`; with `plan: true` only say so."""
    from llmops.finetune.classic import search as searching
    from llmops.finetune.classic.train import inputs_of, parts
    from llmops.registry.tracking import running

    given = dict(context.settings)
    plan = bool(given.pop("plan", False))
    settings, name = _read(context, given)
    study = Path(settings.study or context.state.root / "studies" / f"{name}.db")
    if plan:
        return searching.plan(study, trials=settings.trials)
    train = parts(Lake(context.state), name.catalog, settings).train
    with running(context.state, name, key=_key(context), tags={"kind": "search"}) as run:
        found = searching.search(train, inputs_of(settings), study, trials=settings.trials, seed=settings.seed)
        best = {f"trees.{key}": value for key, value in found.trees.model_dump().items()}
        run.log(params=best, metrics={"average_precision": found.average_precision, "baseline": found.baseline})
    return {"run_id": run.run_id, "study": str(study), **found.as_json()}


def train(context: TaskContext) -> dict[str, Any]:
    """Train a version; gives `version`, `run_id`, the `holdout` table to judge it on, and its main figures there."""
    from llmops.finetune.classic.train import train as train_version
    from llmops.registry import Registry

    settings, name = _read(context)
    with Registry(context.state, principal=context.principal) as registry:
        trained = train_version(Lake(context.state), registry, name, settings, key=_key(context))
    return {
        "version": str(trained.version.ref),
        "run_id": trained.run_id,
        "holdout": trained.holdout.table,
        "holdout_version": trained.holdout.version,
        "metrics": {name: value for name, value in trained.metrics.items() if "." not in name},
    }


def _read(context: TaskContext, given: dict[str, Any] | None = None) -> tuple[TrainSettings, Name]:
    settings = read_settings(dict(context.settings) if given is None else given)
    asset = settings.asset if settings.asset.count(".") == 2 else f"{context.catalog}.{settings.asset}"
    return settings, Name.parse(asset)


def _key(context: TaskContext) -> str:
    return f"{context.run_id}/{context.task}"


def _finite(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        model: {name: value if isfinite(value) else None for name, value in one.items()}
        for model, one in figures.items()
    }

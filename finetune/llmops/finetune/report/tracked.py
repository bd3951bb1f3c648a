"""A run's figures in the catalog's tracking store, with its report, so that runs can be compared beside others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.core.names import Name
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines import Prepared
from llmops.finetune.journal import read_metrics
from llmops.finetune.report.page import CPU, FILES, Device, write
from llmops.finetune.runs import RunFolder
from llmops.registry.tracking import running

_CURVE = ("loss", "lr", "grad_norm")
_POINTS = 100


def reported(job: Prepared, folder: RunFolder) -> str | None:
    """Write the report of a job that has trained, and track it; gives the tracked run's id."""
    where = CPU
    if job.plan.device == "cuda":
        import torch

        where = Device(torch.cuda.get_device_name(), job.plan.precision)
    learned = job.data.statistics.total
    attended = min(learned.tokens / max(1, learned.rows), job.config.data.max_length)
    recomputes = job.plan.gradient_checkpointing
    figures = write(folder, job.config, job.base.shape, attended=attended, recomputes=recomputes, on=where)
    return track(folder, job.config, figures)


def track(folder: RunFolder, config: FinetuneConfig, figures: Mapping[str, Any]) -> str | None:
    """Log the report of a run, and its curves thinned to 100 points; gives the tracked run's id.

    Nothing is tracked, and None given, where the job names neither `track.experiment` nor `track.register_as`.
    """
    named = config.track.experiment or config.track.register_as
    if named is None:
        return None
    steps = read_metrics(folder)
    with running(config.state, Name.parse(named), key=f"finetune:{folder.run_id}", tags={"kind": "finetune"}) as run:
        run.log(params=_params(config), metrics=_numbers(figures), tags={"llmops.run": folder.run_id})
        for one in steps[:: max(1, len(steps) // _POINTS)]:
            run.log(metrics={key: one[key] for key in _CURVE if key in one}, step=one["step"])
        texts = {name: (folder.path / name).read_text(encoding="utf-8") for name in FILES}
        run.files(texts)
    return run.run_id


def _params(config: FinetuneConfig) -> dict[str, Any]:
    kept = config.model_dump(mode="json", include={"task", "method", "train", "parallel"})
    flat = {"task": kept.pop("task"), "model": config.model.path or "new"}
    return flat | {f"{section}.{key}": value for section, values in kept.items() for key, value in values.items()}


def _numbers(figures: Mapping[str, Any], within: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in figures.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{within}{key}.")
        elif isinstance(value, int | float):
            found[within + key] = float(value)
    return found

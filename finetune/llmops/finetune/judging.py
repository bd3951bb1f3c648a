"""What a run's result is worth: the model it began with and the result, on the same held-out examples, one by one.

The result is loaded from the files that will be registered, not taken from the memory of the training.
"""

from __future__ import annotations

from typing import Any

from llmops.core.identity import Principal
from llmops.core.ids import digest
from llmops.finetune import models
from llmops.finetune.config import SUPERVISED
from llmops.finetune.data.template import Renderer
from llmops.finetune.engines import Prepared
from llmops.finetune.evaluate import Measured, measure
from llmops.finetune.results import DataRead, Evaluation, Result, Scored
from llmops.finetune.runs import RunFolder


def evaluated(job: Prepared, folder: RunFolder, principal: Principal) -> Result:
    """Measure base and result of a run."""
    before = None if job.base.folder is None else _measured(models.load_model(job.base, job.config), job)
    after = _measured(models.load_result(folder.model, job.base, job.config), job)
    return Result(
        base=job.base.record,
        data=tuple(_read(job)),
        evaluation=Evaluation(len(after.ids), digest(list(after.ids)), _scores(before, after)),
        template=Renderer(job.tokenizer, job.config).fingerprint,
    )


def _measured(model: Any, job: Prepared) -> Measured:
    import torch

    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return measure(model, job.tokenizer, job.data, job.config, generate=job.config.task in SUPERVISED)


def _scores(before: Measured | None, after: Measured) -> tuple[Scored, ...]:
    was = {} if before is None else before.figures
    return tuple(Scored(metric, values, before=was.get(metric)) for metric, values in after.figures.items())


def _read(job: Prepared) -> list[DataRead]:
    data, statistics = job.config.data, job.data.statistics
    learned, kept = len(data.sources), len(data.heldout)
    found = []
    for place, source in enumerate(job.data.sources[: learned + kept]):
        version = None if source.version is None else str(source.version)
        rows = statistics.by_source[place].read if place < learned else 0
        found.append(DataRead(source.uri, source.digest, rows, version, "train" if place < learned else "heldout"))
    return found

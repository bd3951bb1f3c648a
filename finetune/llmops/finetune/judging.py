"""What a run's result is worth: the model it began with and the result, on the same held-out examples, one by one.

The result is loaded from the files that will be registered, not taken from the memory of the training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmops.core.identity import Principal
from llmops.core.ids import digest
from llmops.finetune import models
from llmops.finetune.artefact import OPENER, Pinned, is_adapter
from llmops.finetune.config import SUPERVISED
from llmops.finetune.data.template import Renderer
from llmops.finetune.engines import Prepared
from llmops.finetune.evaluate import Measured, measure
from llmops.finetune.preferring import preferred, rewarded, scored_pairs
from llmops.finetune.results import DataRead, Evaluation, Result, Scored
from llmops.finetune.runs import RunFolder
from llmops.finetune.whole import adapted

if TYPE_CHECKING:
    from llmops.registry import Version


def evaluated(job: Prepared, folder: RunFolder, principal: Principal) -> Result:
    """Measure base and result of a run."""
    before = None if job.base.folder is None else _measured(_base(job), job)
    after = _measured(_result(job, folder), job)
    template = Renderer(job.tokenizer, job.config).fingerprint
    champion = _champion(job, template, principal)
    reigning = None if champion is None else _measured(champion[1], job)
    scores = _scores(before, after, reigning, job)
    who = None if champion is None else str(champion[0].ref)
    return Result(
        base=job.base.record,
        data=tuple(_read(job)),
        evaluation=Evaluation(len(after.ids), digest(list(after.ids)), scores, champion=who),
        template=template,
    )


def _base(job: Prepared) -> Any:
    if job.config.task == "reward":
        return models.load_scorer(job.base, job.config, job.tokenizer)
    return models.load_model(job.base, job.config)


def _result(job: Prepared, folder: RunFolder) -> Any:
    if job.config.task != "reward":
        return models.load_result(folder.model, job.base, job.config)
    if not is_adapter(folder.model):
        return models.load_scorer(models.base_of_folder(folder.model, "result"), job.config, job.tokenizer)
    return adapted(models.load_scorer(job.base, job.config, job.tokenizer), folder.model)


def _champion(job: Prepared, template: str, principal: Principal) -> tuple[Version, Any] | None:
    """The version that is champion of the name, in memory; None where there is none that reads the same tokens."""
    name = job.config.track.register_as
    if name is None:
        return None
    from llmops.finetune import servable
    from llmops.registry import Registry
    from llmops.registry.load import describe, opener_of

    with Registry(job.config.state, principal=principal) as registry:
        alias = registry.alias(name, "champion")
        if alias is None:
            return None
        version = registry.resolve(f"{name}/{alias.version}")
        folder = registry.files(version)
    described = describe(folder)
    if opener_of(described) != OPENER:
        return None
    pinned = Pinned.of(dict(described["flavors"]["python_function"]["config"]))
    if pinned.template != template or (pinned.task == "reward") != (job.config.task == "reward"):
        return None
    return version, servable.read(folder, pinned, job.config.state).model


def _measured(model: Any, job: Prepared) -> Measured:
    import torch

    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    if job.config.task == "reward":
        return scored_pairs(model, job)
    found = measure(model, job.tokenizer, job.data, job.config, generate=job.config.task in SUPERVISED)
    return rewarded(model, job, found) if job.config.task in ("grpo", "rloo") else found


def _scores(before: Measured | None, after: Measured, champion: Measured | None, job: Prepared) -> tuple[Scored, ...]:
    was = {} if before is None else before.figures
    reigns = {} if champion is None else champion.figures
    found = [
        Scored(metric, values, before=was.get(metric), champion=reigns.get(metric))
        for metric, values in after.figures.items()
    ]
    if before is not None:
        other = {} if champion is None else {one.metric: one.after for one in preferred(before, champion, job)}
        found += [replace(one, champion=other.get(one.metric)) for one in preferred(before, after, job)]
    return tuple(found)


def _read(job: Prepared) -> list[DataRead]:
    data, statistics = job.config.data, job.data.statistics
    learned, kept = len(data.sources), len(data.heldout)
    found = []
    for place, source in enumerate(job.data.sources[: learned + kept]):
        version = None if source.version is None else str(source.version)
        rows = statistics.by_source[place].read if place < learned else 0
        found.append(DataRead(source.uri, source.digest, rows, version, "train" if place < learned else "heldout"))
    return found

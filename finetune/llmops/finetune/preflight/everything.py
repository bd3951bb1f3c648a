"""All checks of a prepared job, in one order: its data first, then its model, then what its task adds."""

from __future__ import annotations

from llmops.finetune.data.template import Renderer
from llmops.finetune.engines import Prepared
from llmops.finetune.preflight import Preflight
from llmops.finetune.preflight.data_checks import data_checks
from llmops.finetune.preflight.fit_checks import fit_checks
from llmops.finetune.preflight.model_checks import model_checks
from llmops.finetune.preflight.task_checks import task_checks


def look(job: Prepared) -> Preflight:
    """Make every check that the job's task calls for; training may start where `require` lets it.

    Raises:
        GateFailedError: the data cannot be learned from at all, so there is nothing to look at.
    """
    vocabulary = job.base.shape.get("vocab_size") if job.base.folder is not None else None
    data = data_checks(job.data, Renderer(job.tokenizer, job.config), job.config, vocabulary=vocabulary)
    if any(check.verdict == "fail" for check in data):
        return Preflight.of(data, fit_checks(job))
    return Preflight.of(data, fit_checks(job), task_checks(job), model_checks(job))

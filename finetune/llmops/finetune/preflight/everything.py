"""All checks of a prepared job, in one order: its data first, then its model, then what its task adds."""

from __future__ import annotations

from llmops.finetune.engines import Prepared
from llmops.finetune.preflight import Preflight
from llmops.finetune.preflight.fit_checks import fit_checks
from llmops.finetune.preflight.model_checks import model_checks


def look(job: Prepared) -> Preflight:
    """Make every check that the job's task calls for; training may start where `require` lets it."""
    job.data.require()
    return Preflight.of(fit_checks(job), model_checks(job))

"""Fine-tuning as tasks of a workflow: collect feedback, train and judge. Each may be killed and repeated at any point.

Called in a process of its own. What a run does with the version is the workflow's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.core.config import load_config
from llmops.core.errors import UserError
from llmops.core.names import working_in
from llmops.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    from llmops.registry.workflow import TaskContext


def feedback_dataset(context: TaskContext) -> dict[str, Any]:
    """Make the set of the feedback there is; gives `dataset`, a file, and what was left out.

    Settings: `config`, the finetune job, and `set`, keys to values laid over it.

    Raises:
        UserError: there is too little to learn from.
    """
    from llmops.finetune.loop import collect, require_enough

    job, _ = _job(context)
    with working_in(context.catalog):
        found = collect(job)
        require_enough(found, job.loop)
    print(f"{found.rows} rows of {found.thumbs} thumbs, {found.new} of them new")
    return {"dataset": str(found.path), **found.as_json()}


def finetune(context: TaskContext) -> dict[str, Any]:
    """Train, judge and register; gives `version` and `run`.

    Settings: `config`, `set`, and `dataset`, a file that takes the place of the job's feedback.

    Raises:
        GateFailedError: the result is not better than what there is; it is registered with that evidence.
    """
    from llmops.finetune.launch import require_here
    from llmops.finetune.train import run_job

    job, dataset = _job(context)
    if dataset is not None:
        sources = [
            one.model_copy(update={"uri": str(dataset)}) if one.uri.startswith("feedback:") else one
            for one in job.data.sources
        ]
        job = job.model_copy(update={"data": job.data.model_copy(update={"sources": tuple(sources)})})
    require_here(job, f"task `{context.task}`")
    with working_in(context.catalog):
        record = run_job(job, principal=context.principal)
    return {"version": record.version, "run": record.run_id, "steps": record.steps}


def _job(context: TaskContext) -> tuple[FinetuneConfig, Any]:
    settings = dict(context.settings)
    file, laid, dataset = settings.pop("config", None), settings.pop("set", None) or {}, settings.pop("dataset", None)
    where = f"task `{context.task}`"
    if settings or not isinstance(laid, Mapping):
        raise UserError(f"unknown settings: {', '.join(settings) or 'set'}", where=where)
    if file is None:
        raise UserError("the task needs `config`, a finetune job", where=where)
    overrides = [f"{key}={value}" for key, value in laid.items()]
    with working_in(context.catalog):
        job = load_config(FinetuneConfig, Path(str(file)), overrides=overrides).value
    return job.model_copy(update={"state": context.state}), dataset

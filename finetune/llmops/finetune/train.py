"""The story of a fine-tuning: data and base are made ready, looked at, trained on, judged, and offered as challenger.

Each step is a call into the room that knows how. A run may be killed anywhere and started again: what is done is found
done, training goes on from the newest whole checkpoint, and the same weights are the same version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmops.core.config import load_config
from llmops.core.errors import ConflictError, LlmopsError, NotFoundError
from llmops.core.identity import LOCAL, Principal
from llmops.core.ids import digest
from llmops.core.state import StateConfig
from llmops.finetune import jobs, models
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data import prepare as data_room
from llmops.finetune.data.sources import SourceRead, open_source, require_unchanged
from llmops.finetune.engines import Listener, Phase, Prepared, Trained, Warned
from llmops.finetune.engines.memory import estimate
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.judging import evaluated
from llmops.finetune.models import BaseModel
from llmops.finetune.planning import plan_for
from llmops.finetune.preflight import Preflight
from llmops.finetune.preflight.everything import look
from llmops.finetune.report.tracked import reported
from llmops.finetune.results import FILE, Result
from llmops.finetune.runs import JOB, RunFolder, RunRecord, find_run, list_runs, open_run

Train = Callable[[Prepared, RunFolder, Listener], Trained]


@dataclass(frozen=True)
class Planned:
    """What a run would do, and what was found of it beforehand."""

    run_id: str
    plan: Mapping[str, Any]
    data: Mapping[str, Any]
    base: str
    memory: str
    preflight: Preflight

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.run_id,
            "base": self.base,
            "plan": dict(self.plan),
            "memory": self.memory,
            "data": dict(self.data),
            "preflight": self.preflight.as_json(),
        }


def run_job(
    config: FinetuneConfig,
    *,
    principal: Principal = LOCAL,
    listen: Listener | None = None,
    path: Path | None = None,
    train: Train = jobs.train,
    only: str | None = None,
) -> RunRecord:
    """Carry a job from nothing to a registered challenger; one that was begun is gone on with.

    Args:
        path: of the job file; paths in it are relative to the working folder.
        train: trains a prepared job, here or on other machines.
        only: the run to go on with, where it may be no other.

    Raises:
        ConflictError: the job, its data or its base is another one than that of `only`.
        GateFailedError: preflight or the gate said no; the run's folder says why.
        UserError: the job cannot be done as it is.
        Stopped: somebody asked it to end; a checkpoint holds what was done.
    """
    listen = listen or _silent
    job = ready(config, principal=principal, listen=listen)
    if only is not None:
        _require_run(job, only)
    return _carried(job, _opened(job, listen), principal, listen, train, path)


def resume_run(
    run_id: str, state: StateConfig, *, principal: Principal = LOCAL, listen: Listener | None = None
) -> tuple[RunRecord, FinetuneConfig]:
    """Go on with a run as it was begun, whatever its job file says now.

    Raises:
        ConflictError: the data or the base changed meanwhile; names it.
    """
    listen = listen or _silent
    folder, known = begun(run_id, state)
    require_data(folder, known)
    job = ready(known, principal=principal, listen=listen)
    _require_run(job, folder.run_id)
    return _carried(job, folder, principal, listen), known


def begun(run_id: str, state: StateConfig) -> tuple[RunFolder, FinetuneConfig]:
    """A run, and the job that it was begun with.

    Raises:
        NotFoundError: there is no such run, or it was ended before its job was written down.
    """
    folder = find_run(state, run_id)
    if not (folder.path / JOB).is_file():
        raise NotFoundError(
            "the run was ended before it was prepared, and there is nothing to go on with",
            where=str(folder.path),
            hint="start it again: `llmops finetune CONFIG`",
        )
    known = FinetuneConfig.model_validate(folder.read(JOB)["config"])
    return folder, known.model_copy(update={"state": state})


def require_data(folder: RunFolder, known: FinetuneConfig) -> None:
    """
    Raises:
        ConflictError: the data changed since the run began; names it.
    """
    sources = [*known.data.sources, *known.data.heldout, *known.data.contamination]
    now = [open_source(source, known.state, Path()).identity() for source in sources]
    require_unchanged([SourceRead.from_json(one) for one in folder.read(JOB)["sources"]], now)


def plan_job(config: FinetuneConfig, *, principal: Principal = LOCAL, listen: Listener | None = None) -> Planned:
    """Everything but the training: data is prepared, the base is found, and all checks are made."""
    job = ready(config, principal=principal, listen=listen or _silent)
    memory = estimate(job.base.shape, config, job.plan, supervised_share=job.data.statistics.supervised_share or 1.0)
    return Planned(_run_id(job), job.plan.as_json(), job.data.as_json(), job.base.uri, memory.text(), look(job))


def ready(config: FinetuneConfig, *, principal: Principal, listen: Listener) -> Prepared:
    """Base, tokenizer, data and plan of a job."""
    listen(Phase("base"))
    base = _base(config, principal, listen)
    tokenizer = models.load_tokenizer(config, base, data_room.texts(config, config.state))
    told = _told(listen)
    data = data_room.prepare(config, tokenizer, config.state, listen=told)
    return Prepared(config, base, tokenizer, data, plan_for(config, base.shape, data))


def _carried(
    job: Prepared,
    folder: RunFolder,
    principal: Principal,
    listen: Listener,
    train: Train = jobs.train,
    path: Path | None = None,
) -> RunRecord:
    """From a prepared job to its end; whatever stops it is on record."""
    with folder.locked():
        if not (folder.path / JOB).exists():
            jobs.write(job, folder, path)
        record = folder.record()
        if record.stage == "done":
            return record
        folder.update(attempts=record.attempts + 1, steps=job.plan.steps, problem=None, stage="preparing")
        try:
            return _stages(job, folder, principal, listen, train)
        except Stopped as stopped:
            folder.update(stage="interrupted")
            stopped.hint = _goes_on(folder)
            raise
        except KeyboardInterrupt:
            stage = folder.record().stage
            folder.update(stage="interrupted", problem=f"interrupted while {stage}")
            raise Stopped(f"interrupted while {stage}: what was done is kept", hint=_goes_on(folder)) from None
        except LlmopsError as error:
            folder.update(stage="failed", problem=error.what)
            raise
        except OSError as error:
            with suppress(OSError):  # the disk that refused may refuse this, too
                folder.update(stage="failed", problem=error.strerror or str(error))
            raise


def _goes_on(folder: RunFolder) -> str:
    return f"the same command goes on, and so does `llmops finetune resume {folder.run_id}`"


def _stages(job: Prepared, folder: RunFolder, principal: Principal, listen: Listener, train: Train) -> RunRecord:
    if not _is_trained(folder, job):
        listen(Phase("preflight"))
        found = look(job)
        folder.write("preflight.json", found.as_json())
        found.require(where=str(folder.path / "preflight.json"))
        folder.update(stage="training")
        listen(Phase("train", 0, job.plan.steps))
        trained = train(job, folder, listen)
        folder.update(stage="evaluating", step=trained.steps)
    if not (folder.path / FILE).exists():
        folder.update(stage="evaluating")
        listen(Phase("evaluate"))
        evaluated(job, folder, principal).save(folder)
    if not (folder.path / "report.json").exists():
        replace(Result.load(folder), tracked=reported(job, folder)).save(folder)
    folder.update(stage="registering")
    if job.config.track.register_as is not None:
        listen(Phase("register"))
        _register(job.config, folder, principal)
    return folder.update(stage="done")


def _is_trained(folder: RunFolder, job: Prepared) -> bool:
    record = folder.record()
    return record.step == job.plan.steps and any(folder.model.glob("*.safetensors"))


def _register(config: FinetuneConfig, folder: RunFolder, principal: Principal) -> None:
    from llmops.finetune.registration import register
    from llmops.registry import Registry

    with Registry(config.state, principal=principal) as registry:
        register(folder, config, registry)


def _base(config: FinetuneConfig, principal: Principal, listen: Listener) -> BaseModel:
    """The base, made by its own job where that was not run yet."""
    if config.model.job is None:
        return models.find_base(config.model, config.state, principal)
    if not config.model.job.is_file():
        raise NotFoundError("there is no such job file", where=str(config.model.job), hint="correct model.job")
    other = load_config(FinetuneConfig, config.model.job, environment={}).value
    other = other.model_copy(update={"state": config.state})
    record = run_job(other, principal=principal, listen=listen, path=config.model.job)
    folder = find_run(config.state, record.run_id)
    return models.base_of_folder(folder.model, f"run:{record.run_id}", version=record.version)


def _opened(job: Prepared, listen: Listener) -> RunFolder:
    """The run's folder; what it is goes on record by whoever holds it."""
    config = job.config
    begun = [
        one.run_id
        for one in list_runs(config.state)
        if one.record().name == config.name and one.record().stage not in ("done", "failed")
    ]
    folder = open_run(config.state, name=config.name, task=config.task, identity=_identity(job))
    other = [one for one in begun if one != folder.run_id]
    if other:
        listen(
            Warned(0, f"a run of this name is unfinished, with other data or settings: {other[0]}; this is a new one")
        )
    return folder


def _identity(job: Prepared) -> str:
    record = job.base.record
    return digest([job.config.identity, job.data.digest, record.digest if record else None])


def _run_id(job: Prepared) -> str:
    return f"{job.config.name}-{_identity(job)[:12]}"


def _require_run(job: Prepared, run_id: str) -> None:
    if _run_id(job) != run_id:
        raise ConflictError(
            "the base, the prepared data or the job is another one than when the run began",
            where=str(job.config.state.root / "finetune" / run_id),
            hint="put it back as it was, or start a new run: `llmops finetune CONFIG`",
            code="base_changed",
        )


def _told(listen: Listener) -> Callable[[str, int, int], None]:
    """Progress of the data room as events, five a second at most."""
    last = 0.0

    def told(stage: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 0.2:
            last = time.monotonic()
            listen(Phase(stage, done, of))

    return told


def _silent(event: Any) -> None:
    """Nobody listens."""

"""A loop whose training runs on a cluster: handed in once, and taken up when its result is there.

The set goes into the folder that nodes share; nodes train and judge, and register nothing. Whoever calls the loop next
finds the run in the nodes' state, registers its result here, and remembers the thumbs as taken. What was handed in is
written down before it is: a loop that is killed between the two hands in the same set again, which is the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import ConfigError, GateFailedError, UserError
from llmops.core.files import exclusive_lock, write_atomic
from llmops.core.identity import LOCAL, Principal
from llmops.finetune import loop as thumbs
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.launch import running_state, submit
from llmops.finetune.launch.artefact import Submitted
from llmops.finetune.loop import Collected
from llmops.finetune.runs import JOB, RunFolder, RunRecord, list_runs

_OWN = "handed.json"


@dataclass(frozen=True)
class Handed:
    """What was handed in and is not taken up yet.

    Args:
        set: the file that nodes learn from; `taken` are the feedback ids that went into it.
        identity: of the job, by which its run is found in `state`, the nodes'.
        sure: whether the launcher is known to have it.
    """

    set: str
    taken: tuple[str, ...]
    identity: str
    state: str
    kind: str
    at: str
    job_id: str | None = None
    sure: bool = False

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "taken": len(self.taken)}


@dataclass(frozen=True)
class Turn:
    """What one call of the loop did.

    Args:
        handed: what is at the launcher now, where there is anything.
        submitted: what the launcher said, where it was handed in by this call.
        run: of what was handed in: where it stands, or what came of it.
    """

    collected: Collected | None
    handed: Handed | None = None
    submitted: Submitted | None = None
    run: RunRecord | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            **({} if self.collected is None else self.collected.as_json()),
            "handed": None if self.handed is None else self.handed.as_json(),
            "submitted": None if self.submitted is None else self.submitted.as_json(),
            "run": None if self.run is None else self.run.as_json(),
        }


def turn(
    config: FinetuneConfig,
    *,
    principal: Principal = LOCAL,
    path: Path | None = None,
    confirm: Callable[[], None] = lambda: None,
    again: bool = False,
) -> Turn:
    """Take up what was handed in, where it is done; where nothing is out, hand in what is new.

    Args:
        path: of the job file.
        confirm: called before anything is handed in; raises where it is not to be.
        again: hand in once more what is out, as after it was cancelled.

    Raises:
        UserError: the run failed, or there is too little feedback; says what.
        GateFailedError: the result is not better; it is registered with that evidence.
        ConfigError, NotFoundError, StorageError, UnavailableError: as `launch.submit`.
    """
    with _alone(config):
        out = _out(config)
        if out is not None:
            run = _run(config, out)
            if run is not None and run.record().stage in ("done", "failed"):
                return _taken_up(config, out, run, principal)
            if out.sure and not again:
                return Turn(None, out, run=None if run is None else run.record())
            confirm()
            return _handed_in(config, None, out, path)
        found = thumbs.collect(config)
        if not found.new:
            return Turn(found)
        thumbs.require_enough(found, config.loop)
        confirm()
        return _handed_in(config, found, _placed(config, found), path)


def _alone(config: FinetuneConfig) -> AbstractContextManager[None]:
    return exclusive_lock(thumbs.folder(config) / "lock", what="looping over this job's feedback")


def _out(config: FinetuneConfig) -> Handed | None:
    place = thumbs.folder(config) / _OWN
    if not place.is_file():
        return None
    found = orjson.loads(place.read_bytes())
    return Handed(**{**found, "taken": tuple(found["taken"])})


def _placed(config: FinetuneConfig, found: Collected) -> Handed:
    """The set where nodes see it, readable by its owner only.

    Raises:
        ConfigError: this machine does not see the folder that nodes share.
    """
    shared, path = config.launch.shared_dir, found.path
    if shared is not None:
        if not shared.is_dir():
            raise ConfigError(
                f"the thumbs have to reach the nodes, and launch.shared_dir, {shared}, is no folder of this machine",
                hint="mount it here, too, or make it",
            )
        path = shared.resolve() / "feedback" / f"{config.name}-{found.path.name}"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, found.path.read_bytes(), mode=0o600)
    return Handed(
        str(path),
        found.taken,
        _abroad(config, path).identity,
        str(running_state(config).root),
        config.launch.kind,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _abroad(config: FinetuneConfig, path: Path) -> FinetuneConfig:
    """The job that nodes get: over the set, and without a name to register, which is done here."""
    track = config.track
    alone = track.model_copy(
        update={"register_as": None, "promote": False, "experiment": track.experiment or track.register_as}
    )
    return thumbs.over(config, path).model_copy(update={"track": alone})


def _handed_in(config: FinetuneConfig, found: Collected | None, out: Handed, path: Path | None) -> Turn:
    _write(config, out)
    submitted = submit(_abroad(config, Path(out.set)), path)
    known = replace(out, job_id=submitted.job_id, sure=True)
    _write(config, known)
    return Turn(found, known, submitted)


def _write(config: FinetuneConfig, out: Handed) -> None:
    write_atomic(thumbs.folder(config) / _OWN, orjson.dumps(asdict(out)), mode=0o600)


def _run(config: FinetuneConfig, out: Handed) -> RunFolder | None:
    """The run of what was handed in, once its first node has begun it."""
    for folder in list_runs(config.state.model_copy(update={"dir": Path(out.state)})):
        if folder.record().name == config.name and (folder.path / JOB).is_file():
            job = FinetuneConfig.model_validate(folder.read(JOB)["config"])
            if job.identity == out.identity:
                return folder
    return None


def _taken_up(config: FinetuneConfig, out: Handed, run: RunFolder, principal: Principal) -> Turn:
    """Register what came of it; or say why nothing did, so that the next loop hands it in again."""
    from llmops.finetune.registration import register
    from llmops.registry import Registry

    record = run.record()
    if record.stage == "failed":
        _forget(config)
        raise UserError(
            f"the run {run.run_id} failed: {record.problem}",
            where=str(run.path),
            hint="mend it and call the loop again, which hands the same thumbs in: the run goes on",
            code="run_failed",
        )
    if config.track.register_as is not None and record.version is None:
        with run.locked(), Registry(config.state, principal=principal) as registry:
            try:
                register(run, config, registry)
            except GateFailedError:  # judged: these thumbs had their say
                thumbs.remember(config, out.taken)
                _forget(config)
                raise
    thumbs.remember(config, out.taken)
    _forget(config)
    return Turn(None, None, run=run.record())


def _forget(config: FinetuneConfig) -> None:
    (thumbs.folder(config) / _OWN).unlink(missing_ok=True)

"""The search for better settings: Optuna over any keys of a job, judged by held-out loss, poor ones cut short.

A study lies in one SQLite file of the state and goes on where it was stopped, also by a kill; its seed and the number
of the trial decide what is tried. What a trial does is told by who asks: `train` is the real thing. Nothing that is
tried is registered. This module is the one of fine-tuning language models that knows optuna.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmops.core.config import load_config
from llmops.core.errors import ConfigError, GateFailedError, NotFoundError
from llmops.core.files import exclusive_lock
from llmops.core.ids import digest
from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.launch import require_here

Tell = Callable[[int, float], None]
"""Told of a held-out loss at a step; raises where the trial is not worth going on."""
Try = Callable[[FinetuneConfig, Tell], float]
_RANGE = re.compile(r"(-?[\d.]+(?:e-?\d+)?)\.\.(-?[\d.]+(?:e-?\d+)?)(:log)?", re.IGNORECASE)
_STARTUP = 5


@dataclass(frozen=True)
class Space:
    """The values of one key: from `low` to `high`, or one of `choices`."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Space:
        """`train.lr=1e-5..1e-3:log`, `method.r=4..64`, `method.kind=lora,dora`.

        Raises:
            ConfigError: it is none of them.
        """
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"`{text}` is no space", where="--space", hint="write key=low..high, or key=a,b,c")
        if (found := _RANGE.fullmatch(values)) is None and ".." in values:
            raise ConfigError(f"`{values}` is no range", where=f"--space {key}", hint="write 1e-5..1e-3, or ...:log")
        if found is None:
            return cls(key, choices=tuple(yaml.safe_load(one) for one in values.split(",")))
        low, high = float(found[1]), float(found[2])
        if low >= high or (found[3] and low <= 0):
            raise ConfigError(f"`{text}` goes from nowhere to nowhere", where="--space")
        whole = not any(mark in found[1] + found[2] for mark in ".eE")
        return cls(key, low, high, log=found[3] is not None, whole=whole)

    def suggested(self, trial: Any) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Searched:
    """What a search came to; `best` are the values of the trial with the least held-out loss."""

    best: Mapping[str, Any]
    loss: float
    trials: int
    pruned: int
    failed: int
    study: Path

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "best": dict(self.best), "study": str(self.study)}


def search(
    path: Path, spaces: Sequence[Space], *, trials: int, overrides: Sequence[str] = (), attempt: Try | None = None
) -> Searched:
    """Try until the study has so many trials; one that has them is only read.

    Args:
        path: of the job file; each trial is that job with the values of the spaces.
        attempt: trains a job and gives its held-out loss.

    Raises:
        ConfigError: a key or a value does not fit the job.
        ConflictError: another process is searching.
        NotFoundError: no trial came to an end.
    """
    import optuna

    if not spaces:
        raise ConfigError("a search needs a space", hint="--space train.lr=1e-5..1e-3:log")
    keys = [space.key for space in spaces]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"`{twice}` has two spaces", where="--space", hint="give each key one")
    config = load_config(FinetuneConfig, path, overrides=overrides).value
    require_here(config, "a search")
    study = place(config.state, config, spaces)
    study.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(study.with_suffix(".lock"), what="searching"):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.RDBStorage(f"sqlite:///{study}")
        try:
            found = _opened(optuna, storage)
            while (number := _done(found)) < trials:
                # seeded by the trial's number, so that a study that was stopped tries what it would have tried
                found.sampler = optuna.samplers.TPESampler(
                    seed=(config.train.seed * 10_007 + number) % 2**32, n_startup_trials=_STARTUP
                )
                found.optimize(
                    lambda trial: _score(optuna, trial, path, spaces, overrides, attempt or train), n_trials=1
                )
            return _outcome(found, study)
        finally:
            storage.engine.dispose()


def place(state: StateConfig, config: FinetuneConfig, spaces: Sequence[Space]) -> Path:
    """The file of the study of this job and these spaces."""
    mark = digest([config.identity, [vars(space) for space in spaces]])
    return state.root / "finetune" / "searches" / f"{config.name}-{mark[:12]}.db"


def train(config: FinetuneConfig, tell: Tell) -> float:
    """One trial for real: a run of its own, neither registered nor promoted; held-out losses on the way are told."""
    from llmops.finetune.engines import Evaluated, Event
    from llmops.finetune.results import Result
    from llmops.finetune.runs import find_run
    from llmops.finetune.train import run_job

    def listen(event: Event) -> None:
        if isinstance(event, Evaluated) and "loss" in event.figures:
            tell(event.step, event.figures["loss"])

    record = run_job(config, listen=listen)
    scored = Result.load(find_run(config.state, record.run_id)).evaluation.score("loss")
    if scored is None or not scored.after:
        raise ConfigError("the job has no held-out loss to judge by", hint="set data.heldout or data.heldout_share")
    return sum(scored.after) / len(scored.after)


def _score(
    optuna: Any, trial: Any, path: Path, spaces: Sequence[Space], overrides: Sequence[str], attempt: Try
) -> float:
    values = {space.key: space.suggested(trial) for space in spaces}
    asked = [
        *overrides,
        *(f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for key, value in values.items()),
    ]
    config = load_config(FinetuneConfig, path, overrides=asked).value
    alone = config.track.model_copy(update={"register_as": None, "promote": False})

    def tell(step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise optuna.TrialPruned
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        loss = attempt(config.model_copy(update={"track": alone}), tell)
    except GateFailedError as error:
        if error.error_code != "loss_not_finite":
            raise
        raise optuna.TrialPruned from error  # a poor setting, which the same seed would try for ever
    if not math.isfinite(loss):
        raise optuna.TrialPruned
    return loss


def _opened(optuna: Any, storage: Any) -> Any:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP)
    found = optuna.create_study(
        study_name="finetune", storage=storage, direction="minimize", load_if_exists=True, pruner=pruner
    )
    for trial in found.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        found.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # we hold the lock: its process is dead
    return found


def _done(study: Any) -> int:
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def _outcome(study: Any, path: Path) -> Searched:
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not ended:
        raise NotFoundError("no trial came to an end", where=str(path), hint="let the search run on")
    top = min(ended, key=lambda trial: (trial.value, trial.number))
    states = [trial.state.name for trial in trials]
    return Searched(dict(top.params), top.value, _done(study), states.count("PRUNED"), states.count("FAIL"), path)

"""The search for better trees: Optuna over the settings of growth, judged by the training's own late fifth.

The held-out days are never looked at. A study lies in one SQLite file and goes on where it was stopped, also by a kill;
its seed and the number of the trial decide what is tried. This module is the one here that knows optuna.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.core.errors import ConflictError, NotFoundError
from llmops.core.files import exclusive_lock
from llmops.core.ids import digest
from llmops.finetune.classic.classifier import grow, truths
from llmops.finetune.classic.data import Sample
from llmops.finetune.classic.metrics import average_precision
from llmops.finetune.classic.settings import Trees

SPACE = {
    "rounds": (50, 400),
    "depth": (2, 9),
    "eta": (0.02, 0.4),
    "child_weight": (0.5, 20.0),
    "subsample": (0.5, 1.0),
    "columns": (0.4, 1.0),
    "l2": (0.1, 30.0),
}
"""What is tried, from and to; `rounds` and `depth` are whole, `eta`, `child_weight` and `l2` on a log scale."""
_STARTUP = 5


@dataclass(frozen=True)
class Searched:
    """What a search came to."""

    trees: Trees
    average_precision: float
    trials: int
    pruned: int
    baseline: float

    def as_json(self) -> dict[str, Any]:
        return {
            "trees": self.trees.model_dump(),
            "average_precision": self.average_precision,
            "baseline": self.baseline,
            "trials": self.trials,
            "pruned": self.pruned,
        }


def search(sample: Sample, inputs: tuple[str, ...], study: Path, *, trials: int, seed: int) -> Searched:
    """Try until the study has this many trials; the first is the default trees. A study that has them is only read.

    Raises:
        ConflictError: another process is searching, or the file holds a study of other data, inputs or seed.
    """
    import optuna

    study.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(study.with_suffix(".lock"), what="searching"):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.RDBStorage(f"sqlite:///{study}")
        try:
            found = _opened(optuna, storage, _mark(sample, inputs, seed))
            while (number := _done(found)) < trials:
                # seeded by the trial's number, so that a study that was stopped tries what it would have tried
                found.sampler = optuna.samplers.TPESampler(seed=seed * 10_007 + number, n_startup_trials=_STARTUP)
                found.optimize(lambda trial: _score(optuna, trial, sample, inputs, seed), n_trials=1)
            return _outcome(found)
        finally:
            storage.engine.dispose()


def plan(study: Path, *, trials: int) -> dict[str, Any]:
    """What a search would do, without doing it."""
    done = 0
    if study.exists():
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.RDBStorage(f"sqlite:///{study}")
        try:
            done = _done(optuna.load_study(study_name="trees", storage=storage))
        finally:
            storage.engine.dispose()
    return {"study": str(study), "done": done, "to_try": max(0, trials - done), "space": SPACE}


def best(study: Path) -> Trees:
    """The best trees of a study.

    Raises:
        NotFoundError: there is no such study, or it has no result.
    """
    if not study.exists():
        raise NotFoundError("there is no such study", where=str(study), hint="run the task `search` first")
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{study}")
    try:
        return _outcome(optuna.load_study(study_name="trees", storage=storage)).trees
    finally:
        storage.engine.dispose()


def _opened(optuna: Any, storage: Any, mark: str) -> Any:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=20)
    found = optuna.create_study(
        study_name="trees", storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    if found.user_attrs.get("mark", mark) != mark:
        raise ConflictError("the study is of other data, inputs or seed", hint="name another file, or remove it")
    found.set_user_attr("mark", mark)
    if not found.trials:
        found.enqueue_trial(Trees().model_dump())
    for trial in found.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        found.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # we hold the lock: its process is dead
    return found


def _score(optuna: Any, trial: Any, sample: Sample, inputs: tuple[str, ...], seed: int) -> float:
    def watch(tree: int, value: float) -> None:
        if tree % 5 == 0:
            trial.report(value, tree)
            if trial.should_prune():
                raise optuna.TrialPruned

    grown = grow(sample.table, "is_fraud", inputs, _suggested(trial), seed=seed, watch=watch)
    late = sample.table.slice(len(sample.table) * 4 // 5)
    return average_precision(truths(late, "is_fraud"), grown.probabilities(late))


def _suggested(trial: Any) -> Trees:
    values: dict[str, Any] = {}
    for name, (low, high) in SPACE.items():
        if isinstance(low, int):
            values[name] = trial.suggest_int(name, low, high)
        else:
            values[name] = trial.suggest_float(name, low, high, log=name in ("eta", "child_weight", "l2"))
    return Trees(**values)


def _done(study: Any) -> int:
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def _outcome(study: Any) -> Searched:
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not ended:
        raise NotFoundError("the study has no result yet", hint="let it run on")
    top = max(ended, key=lambda trial: (trial.value, -trial.number))
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    return Searched(Trees(**top.params), top.value, _done(study), states.count("PRUNED"), ended[0].value)


def _mark(sample: Sample, inputs: tuple[str, ...], seed: int) -> str:
    return digest([sample.training.digest, list(inputs), seed])

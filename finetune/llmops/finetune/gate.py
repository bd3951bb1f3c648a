"""Whether a result may become challenger: its figures on held-out examples against the limits of the job, and against
those of the model it began with, example by example.

Whatever was asked for and not measured fails: nothing passes because it was not looked at. Knows figures, and no model;
what follows from a verdict is `registration`'s and promotion's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from llmops.finetune.config import FinetuneConfig, GateConfig, Task
from llmops.finetune.results import Evaluation, Scored
from llmops.registry.evidence import Data
from llmops.registry.gates import Finding, Report
from llmops.registry.gates.paired import scored, shown_better
from llmops.registry.records import Version
from llmops.registry.stats import Conclusion, Rule, wilson

GATE = "finetune"
LEAST = 30
"""Examples below which nothing is said about which model is better."""
_RESAMPLES, _SEED, _ALPHA = 2000, 0, 0.05
_MAIN: dict[Task, str] = {
    "dpo": "preference_accuracy",
    "kto": "preference_accuracy",
    "reward": "preference_accuracy",
    "grpo": "reward",
    "rloo": "reward",
}
_LIMITS = (
    ("loss_max", "loss"),
    ("token_accuracy_min", "token_accuracy"),
    ("exact_match_min", "exact_match"),
    ("preference_accuracy_min", "preference_accuracy"),
    ("reward_margin_min", "reward_margin"),
)


@dataclass(frozen=True)
class Judged:
    """A version whose evaluation is looked at.

    Args:
        champion: who is champion now, None where nobody is.
        result: digest of the whole result, so that a record can be told from that of another evaluation.
    """

    version: Version
    evaluation: Evaluation
    started: datetime
    result: str
    champion: Version | None = None


def judge(judged: Judged, config: FinetuneConfig) -> Report:
    """What the gate `finetune` finds: each limit, and whether the result is better than its base."""
    findings = [*_limits(judged.evaluation, config.eval.gate)]
    effect = None
    if config.eval.gate.beat_base:
        main = main_score(judged.evaluation, config)
        effect = None if main is None or main.before is None else _effect(main, main.before)
        findings += _beaten(main, effect)
    if not findings:
        findings.append(Finding("evaluated", "pass", f"no limit was asked for; {judged.evaluation.examples} examples"))
    return Report(
        gate="finetune",
        version=judged.version,
        spec=config.eval.gate,
        findings=tuple(findings),
        started=judged.started,
        heuristic={"kind": "base_model"},
        effect=effect,
        data=_data(judged.evaluation),
        figures={"metrics": _figures(judged.evaluation)},
        facts={"result": judged.result},
    )


def compare(judged: Judged, config: FinetuneConfig) -> Report | None:
    """The comparison with the champion on the same examples; at the first deployment the base model stands in for it.

    None where the champion was not asked, or there is nothing to compare with: `llmops models compare` does it then.
    """
    evaluation, main = judged.evaluation, main_score(judged.evaluation, config)
    if main is None:
        return None
    if judged.champion is None:
        other, who = main.before, "its base"
    elif evaluation.champion == str(judged.champion.ref):
        other, who = main.champion, "the champion"
    else:
        other, who = None, ""
    if other is None:
        return None
    effect = _effect(main, other)
    return Report(
        gate="comparison",
        version=judged.version,
        spec=config.eval.gate,
        findings=(_better(f"effect:{main.metric}", main, effect, who),),
        started=judged.started,
        baseline=judged.champion,
        heuristic={"kind": "base_model"} if judged.champion is None else None,
        effect=effect,
        data=_data(evaluation),
        facts={"result": judged.result},
    )


def main_score(evaluation: Evaluation, config: FinetuneConfig) -> Scored | None:
    """The figure that decides: the task's own, the first that a limit was named for, the loss, or whatever there is."""
    named = [metric for limit, metric in _LIMITS if getattr(config.eval.gate, limit) is not None]
    wanted = [_MAIN[config.task]] if config.task in _MAIN else []
    there = [one.metric for one in evaluation.scores]
    for metric in (*wanted, *named, "loss", *there):
        if (found := evaluation.score(metric)) is not None and found.after:
            return found
    return None


def _limits(evaluation: Evaluation, gate: GateConfig) -> Iterator[Finding]:
    for key, metric in _LIMITS:
        limit = getattr(gate, key)
        if limit is None:
            continue
        found = evaluation.score(metric)
        words = f"<= {limit:g}" if metric == "loss" else f">= {limit:g}"
        if found is None or not found.after:
            hint = f"the task does not measure it; take eval.gate.{key} out"
            yield Finding(f"limit:{metric}", "fail", f"{metric} was not measured", limit=words, hint=hint)
            continue
        mean = float(np.mean(found.after))
        fine = mean <= limit if metric == "loss" else mean >= limit
        yield Finding(
            f"limit:{metric}",
            "pass" if fine else "fail",
            f"{metric} is {mean:.4g} on {len(found.after)} held-out examples",
            measured=mean,
            limit=words,
            n=len(found.after),
            interval=interval(found.after),
            hint=None if fine else "train longer, or on more or cleaner examples; or ask for less",
        )


def _beaten(main: Scored | None, effect: Conclusion | None) -> Iterator[Finding]:
    if main is None:
        hint = "hold examples out (data.heldout_share), or set eval.gate.beat_base: false"
        yield Finding("beat_base", "fail", "nothing was measured that could be compared with the base", hint=hint)
    elif effect is not None:
        yield _better("beat_base", main, effect, "its base")


def _better(check: str, main: Scored, effect: Conclusion, who: str) -> Finding:
    n = effect.n_challenger
    if n < LEAST:
        what = f"{n} held-out examples say too little, {LEAST} are needed"
        return Finding(check, "inconclusive", what, n=n, hint="hold more examples out: data.heldout_share")
    verdict = shown_better(effect, "high" if main.lower_is_better else "low", 0.0)
    words = {"pass": "is better than", "fail": "is not better than", "inconclusive": "is not shown to be better than"}
    return Finding(
        check,
        verdict,
        f"the result {words[verdict]} {who} in {main.metric}",
        measured=effect.effect,
        limit="better by more than 0",
        n=n,
        interval=(effect.ci_low, effect.ci_high),
        hint=None if verdict == "pass" else "look at the held-out examples it lost; train on more of their like",
    )


def _effect(main: Scored, other: tuple[float, ...]) -> Conclusion:
    bad = "high" if main.lower_is_better else "low"
    rule = Rule(alpha=_ALPHA, bad=bad, least=LEAST, resamples=_RESAMPLES, seed=_SEED)
    return scored(np.asarray(other, np.float64), np.asarray(main.after, np.float64), rule)


def interval(values: tuple[float, ...]) -> tuple[float, float]:
    """Of a mean: by score for yes and no, else by bootstrap."""
    found = np.asarray(values, np.float64)
    if np.isin(found, (0.0, 1.0)).all():
        return wilson(int(found.sum()), len(found), _ALPHA)
    drawn = np.random.default_rng(_SEED).choice(found, (_RESAMPLES, len(found))).mean(axis=1)
    low, high = np.quantile(drawn, (_ALPHA / 2, 1 - _ALPHA / 2))
    return float(low), float(high)


def _figures(evaluation: Evaluation) -> list[dict[str, object]]:
    """Each metric of each model, with its interval, as the card shows it."""
    return [
        {
            "metric": one.metric,
            "better": "low" if one.lower_is_better else "high",
            "side": side,
            "slice": None,
            "n": len(values),
            "value": float(np.mean(values)),
            "interval": list(interval(values)),
        }
        for one in evaluation.scores
        for side, values in (("base", one.before), ("champion", one.champion), ("result", one.after))
        if values
    ]


def _data(evaluation: Evaluation) -> Data:
    return Data(table="held-out examples", version="1", rows=evaluation.examples, digest=evaluation.digest)

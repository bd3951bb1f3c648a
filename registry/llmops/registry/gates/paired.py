"""Champion and challenger on the same rows: what was shown of the metric that decides, and of every guardrail.

The metric that decides must be shown better (or not worse); every slice and every further metric must be shown not to
be worse than its margin. All of them must pass, so each may be asked at alpha: a version that is truly worse in one of
them passes with a chance of at most alpha, however many there are. That something *is* worse is claimed of many at
once, so there each gets alpha / how many there are. Knows predictions and scores, and no version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.registry.gates.heldout import Mask
from llmops.registry.gates.judged import Judged
from llmops.registry.gates.metrics import Metric, coded
from llmops.registry.gates.report import Finding
from llmops.registry.gates.spec import ComparisonSpec
from llmops.registry.stats.conclusion import Bad, Verdict
from llmops.registry.stats.conclusion import Conclusion as Effect
from llmops.registry.stats.paired import Rule, mcnemar, paired_bootstrap, paired_permutation

_PERMUTED_ROWS = 2000
"""Rows from which the bootstrap alone decides: the mean of so many is as good as normal."""
_DRAWN_AT_MOST = 100_000_000
_SLOW_RESAMPLES = 300
"""Resamples of a metric that scikit-learn has to compute each time."""

Floats = NDArray[np.float64]
Measure = Callable[[Mask | None, Rule], Effect | None]


@dataclass(frozen=True)
class Measured:
    """One metric of both sides, as it can be asked of any slice; None where it is not defined there."""

    name: str
    bad: Bad
    of: Measure


def measured_rows(metric: Metric, champion: Judged, challenger: Judged) -> Measured:
    """A metric of predictions of the same rows."""
    bad: Bad = "low" if metric.better == "high" else "high"

    def of(rows: Mask | None, rule: Rule) -> Effect | None:
        old, new = (side if rows is None else side.only(rows) for side in (champion, challenger))
        if not len(old) or any(math.isnan(metric.of(side)) for side in (old, new)):
            return None
        if metric.rows is not None:
            return scored(metric.rows(old), metric.rows(new), rule)
        if metric.is_quick_for(old) and metric.is_quick_for(new):
            return paired_bootstrap(coded(old), coded(new), _affordable(rule, len(old)), metric=metric.quick)
        return _resampled(metric, old, new, rule)

    return Measured(metric.name, bad, of)


def measured_scores(name: str, champion: Floats, challenger: Floats, *, bad: Bad = "low") -> Measured:
    """Scores of answers to the same questions; `bad`: at which end the worse ones lie."""

    def of(rows: Mask | None, rule: Rule) -> Effect | None:
        old, new = (champion, challenger) if rows is None else (champion[rows], challenger[rows])
        return scored(old, new, rule) if len(old) else None

    return Measured(name, bad, of)


def scored(champion: Floats, challenger: Floats, rule: Rule) -> Effect:
    """The difference of mean scores: exact for right and wrong, by permutation for few rows, by bootstrap for many."""
    if np.isin(champion, (0.0, 1.0)).all() and np.isin(challenger, (0.0, 1.0)).all():
        return mcnemar(champion == 1.0, challenger == 1.0, rule)
    affordable = _affordable(rule, len(champion))
    if len(champion) <= _PERMUTED_ROWS:
        return paired_permutation(champion, challenger, affordable)
    return paired_bootstrap(champion, challenger, affordable)


def decide(
    main: Measured, further: Sequence[tuple[Measured, float]], slices: Mapping[str, Mask], spec: ComparisonSpec
) -> tuple[Effect | None, list[Finding]]:
    """What was shown of the metric that decides, and one finding for it and for each guardrail.

    Args:
        further: other metrics, each with the margin by which it may be worse.
        slices: rows in which the metric that decides may be worse by `spec.margin` at most.
    """
    effect = main.of(None, _rule(spec, main.bad, spec.margin))
    findings = [_main(effect, main, spec)]
    guards: list[tuple[Measured, str | None, float]] = [(measured, None, margin) for measured, margin in further]
    guards += [(main, name, spec.margin) for name in slices]
    findings += _guarded(guards, slices, spec)
    return effect, findings


def _main(effect: Effect | None, main: Measured, spec: ComparisonSpec) -> Finding:
    check = f"effect:{main.name}"
    if effect is None or effect.effect is None:
        return Finding(check, "inconclusive", f"{main.name} is not defined for these rows")
    told: dict[str, Any] = {
        "check": check,
        "measured": effect.effect,
        "interval": (effect.ci_low, effect.ci_high),
        "n": effect.n_challenger,
    }
    if effect.n_challenger < spec.min_rows:
        what = f"{effect.n_challenger} rows say too little, {spec.min_rows} are needed"
        return Finding(**told, verdict="inconclusive", what=what, hint="hold more rows out")
    if spec.claim == "not_worse":
        words = {"pass": "is not worse", "fail": "is worse", "inconclusive": "may be worse"}
        what = f"the challenger {words[effect.verdict]} in {main.name} by more than {spec.margin:g}"
        return Finding(**told, verdict=effect.verdict, what=what, limit=f"not worse by more than {spec.margin:g}")
    verdict = shown_better(effect, main.bad, spec.min_effect)
    words = {"pass": "is better", "fail": "is not better", "inconclusive": "is not shown to be better"}
    by = f" by more than {spec.min_effect:g}" if spec.min_effect else ""
    return Finding(
        **told,
        verdict=verdict,
        what=f"the challenger {words[verdict]} in {main.name}{by}",
        limit=f"better{by or ' by more than 0'}",
        hint=_hint(effect) if verdict == "inconclusive" else None,
    )


def shown_better(effect: Effect, bad: Bad, min_effect: float) -> Verdict:
    """Pass where a gain of more than `min_effect` is shown, fail where it is excluded, else inconclusive.

    The interval must lie above it, and the test of no difference must agree: for few rows that test is the exact one.
    """
    low, high = (effect.ci_low, effect.ci_high) if bad == "low" else (-effect.ci_high, -effect.ci_low)
    differs = effect.p_value is None or effect.p_value <= effect.alpha
    if low > min_effect and differs:
        return "pass"
    return "fail" if high < min_effect and (differs or min_effect > 0) else "inconclusive"


def _guarded(
    guards: Sequence[tuple[Measured, str | None, float]], slices: Mapping[str, Mask], spec: ComparisonSpec
) -> Iterator[Finding]:
    for measured, name, margin in guards:
        rows = None if name is None else slices[name]
        n = None if rows is None else int(rows.sum())
        if n is not None and n < spec.min_rows:
            if spec.few_rows == "inconclusive":
                what = f"{n} rows say too little, {spec.min_rows} are needed"
                hint = "hold more rows out, or set few_rows: skip"
                yield Finding(f"guard:{measured.name}", "inconclusive", what, slice=name, n=n, hint=hint)
            continue
        yield _guard(measured, rows, name, margin, (spec, len(guards)))


def _guard(
    measured: Measured, rows: Mask | None, name: str | None, margin: float, asked: tuple[ComparisonSpec, int]
) -> Finding:
    spec, how_many = asked
    check, limit = f"guard:{measured.name}", f"not worse by more than {margin:g}"
    rule = _rule(spec, measured.bad, margin)
    effect = measured.of(rows, rule)
    if effect is None or effect.effect is None:
        return Finding(check, "inconclusive", f"{measured.name} is not defined for these rows", slice=name, limit=limit)
    verdict = effect.verdict
    if verdict == "fail" and how_many > 1:
        again = measured.of(rows, rule.model_copy(update={"alpha": spec.alpha / how_many}))
        verdict = "fail" if again is not None and again.verdict == "fail" else "inconclusive"
    words = {"pass": "is not worse", "fail": "is worse", "inconclusive": "may be worse"}
    return Finding(
        check,
        verdict,
        f"the challenger {words[verdict]} in {measured.name}" + (f" where {name}" if name else ""),
        measured=effect.effect,
        limit=limit,
        slice=name,
        n=effect.n_challenger,
        interval=(effect.ci_low, effect.ci_high),
        hint=_hint(effect) if verdict == "inconclusive" else None,
    )


def _hint(effect: Effect) -> str:
    if effect.ci_low == effect.ci_high == 0:
        return "both sides are alike in every row"
    return "hold more rows out, or let live traffic decide"


def _rule(spec: ComparisonSpec, bad: Bad, margin: float) -> Rule:
    return Rule(alpha=spec.alpha, margin=margin, bad=bad, least=spec.min_rows, resamples=spec.resamples, seed=spec.seed)


def _affordable(rule: Rule, n: int) -> Rule:
    return rule.model_copy(update={"resamples": min(rule.resamples, max(200, _DRAWN_AT_MOST // n))})


def _resampled(metric: Metric, champion: Judged, challenger: Judged, rule: Rule) -> Effect:
    """By way of row numbers: the challenger's follow on the champion's, so that a metric can tell which side it has."""
    n = len(champion)
    few = rule.model_copy(update={"resamples": min(rule.resamples, _SLOW_RESAMPLES)})

    def value(rows: NDArray[Any]) -> float:
        side = champion if rows[0] < n else challenger
        return metric.of(side.only(rows % n))

    return paired_bootstrap(np.arange(n), np.arange(n) + n, few, metric=value)

"""What a comparison found, in the words of an evidence record, and the one rule by which it passes or fails.

Knows effects, intervals and verdicts. It does not know where they come from, nor what is done about them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["pass", "fail", "inconclusive"]
Bad = Literal["high", "low"]
"""Which end of a metric hurts: `high` for errors, cost and latency, `low` for accuracy and thumbs up."""

VERSION = "1"


class State(BaseModel):
    """A plain value: equal content is equal, and JSON is `model_dump_json()`, back by `model_validate_json()`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Conclusion(State):
    """One comparison of a challenger with the champion.

    Args:
        effect: challenger against champion, as measured: a difference, or a ratio where the method says so.
        ci_low, ci_high: its interval at 1 - alpha; infinite where the data say nothing.
        e_value: evidence against "no harm"; at 1/alpha or more, harm is shown. None for fixed samples.
        p_value: for a sequential test valid at every look, 1 / the largest e-value so far.
        srm_p: that the arms got their shares, where the method counts them.
    """

    verdict: Verdict
    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    alpha: float
    effect: float | None
    ci_low: float
    ci_high: float
    e_value: float | None = None
    p_value: float | None = None
    n_champion: int
    n_challenger: int
    looks: int = 1
    srm_p: float | None = None

    def as_evidence(self) -> dict[str, Any]:
        """The fields of `registry.Evidence` that a conclusion fills; the caller adds asset, gate, data and actor."""
        finite = {name: _finite(getattr(self, name)) for name in ("effect", "ci_low", "ci_high", "srm_p")}
        return finite | {
            "verdict": self.verdict,
            "method": {"name": self.method, "version": VERSION, "params": self.params, "seed": self.seed},
            "alpha": self.alpha,
            "n": {"champion": self.n_champion, "challenger": self.n_challenger},
            "looks": self.looks,
        }


def decide(harm_shown: bool, harm_at_most: float, margin: float) -> Verdict:
    """Pass where harm beyond the margin is excluded, fail where harm is shown, else inconclusive.

    A margin above 0 asks for no worse than that, 0 for no worse at all, one below 0 for so much better. Harm shown to
    lie within the margin passes: with enough requests every difference shows. Where no harm is accepted, an alarm at
    any look outweighs what came later.
    """
    if harm_at_most <= margin and not (harm_shown and margin <= 0):
        return "pass"
    return "fail" if harm_shown else "inconclusive"


def decide_interval(low: float, high: float, margin: float, bad: Bad) -> Verdict:
    """`decide` for a fixed sample: harm is shown where the interval excludes what was allowed, or no harm at all."""
    harm_low, harm_high = (low, high) if bad == "high" else (-high, -low)
    return decide(harm_low > min(margin, 0.0), harm_high, margin)


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """All must pass; one failure fails; nothing at all is inconclusive."""
    found = list(verdicts)
    if "fail" in found:
        return "fail"
    return "pass" if found and all(verdict == "pass" for verdict in found) else "inconclusive"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

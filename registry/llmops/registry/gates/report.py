"""What a gate found: one finding a check, one verdict over all, and the evidence record they become.

Knows shapes and words. How anything was measured is for the checks; what follows from it is for promotion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from llmops.core.identity import Principal
from llmops.core.ids import canonical_json, digest
from llmops.registry.evidence import Counts, Data, Evidence, Method, Subject
from llmops.registry.gates.environment import environment
from llmops.registry.records import Version
from llmops.registry.stats.conclusion import Conclusion as Effect
from llmops.registry.stats.conclusion import Verdict, combine

if TYPE_CHECKING:
    from pydantic import BaseModel

METHOD_VERSION = "1"
REPORT_KEY = "report"
"""In an evidence record's parameters: the digest of the whole report."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        check: stable name: `load`, `metric:recall`, `latency:row_p95_ms`, ...
        what: one sentence, lower case, without a final stop.
        measured: a JSON value.
        limit: what it was held against, in words: `>= 0.8`.
        hint: what to do about it.
        slice: which rows; None: all.
        interval: of `measured`, at 1 - alpha.
    """

    check: str
    verdict: Verdict
    what: str
    measured: Any = None
    limit: str | None = None
    hint: str | None = None
    slice: str | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = plain({key: value for key, value in vars(self).items() if value is not None})
        return found


@dataclass(frozen=True)
class Report:
    """What a gate says about one version. It moves nothing.

    Args:
        baseline: the version it was compared with; `heuristic` where that was no version.
        effect: of the metric that decides, challenger against champion.
        figures: what the card plots (metrics by slice, calibration, confusion), JSON values.
        facts: about the run: isolation, artefact size, heads of indexes, ...
    """

    gate: Literal["finetune", "validation", "comparison"]
    version: Version
    spec: BaseModel
    findings: Sequence[Finding]
    started: datetime
    ended: datetime = field(default_factory=lambda: datetime.now(UTC))
    baseline: Version | None = None
    heuristic: Mapping[str, Any] | None = None
    effect: Effect | None = None
    data: Data | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """All findings must pass; one that fails decides; anything left open holds."""
        return combine(finding.verdict for finding in self.findings)

    @property
    def body(self) -> bytes:
        """The whole report as the canonical JSON that its evidence names by digest."""
        return canonical_json(self.as_json())

    def evidence(self, principal: Principal, parents: Sequence[str] = ()) -> Evidence:
        """The record to file: everything another needs to see why, and to repeat it.

        Args:
            principal: who had it done.
            parents: ids of the evidence that this one rests on.
        """
        effect = self.effect
        params: dict[str, Any] = {
            "spec": self.spec.model_dump(mode="json", exclude={"state"}),
            "findings": [finding.as_json() for finding in self.findings],
            "facts": dict(self.facts),
            REPORT_KEY: digest(self.body),
        }
        if self.heuristic is not None:
            params["heuristic"] = dict(self.heuristic)
        if effect is not None:
            params["effect"] = {"p_value": effect.p_value, **effect.params}
        return Evidence(
            asset=Subject.of(self.version),
            baseline=None if self.baseline is None else Subject.of(self.baseline),
            gate=self.gate,
            verdict=self.verdict,
            method=Method(
                name=effect.method if effect else self.gate,
                version=METHOD_VERSION,
                params=plain(params),
                seed=getattr(self.spec, "seed", None),
            ),
            alpha=getattr(self.spec, "alpha", None),
            effect=None if effect is None else finite(effect.effect),
            ci_low=None if effect is None else finite(effect.ci_low),
            ci_high=None if effect is None else finite(effect.ci_high),
            n=None if effect is None else Counts(champion=effect.n_champion, challenger=effect.n_challenger),
            looks=None if effect is None else 1,
            data=self.data,
            env=environment(),
            actor=principal.id,
            started=self.started,
            ended=self.ended,
            parents=tuple(parents),
        )

    def as_json(self) -> dict[str, Any]:
        """The report as `llmops models validate --json` prints it."""
        shown: dict[str, Any] = plain(
            {
                "gate": self.gate,
                "version": str(self.version.ref),
                "kind": self.version.kind.value,
                "digest": self.version.digest,
                "verdict": self.verdict,
                "baseline": None if self.baseline is None else str(self.baseline.ref),
                "heuristic": self.heuristic,
                "effect": None if self.effect is None else self.effect.model_dump(mode="json"),
                "findings": [finding.as_json() for finding in self.findings],
                "data": None if self.data is None else self.data.model_dump(mode="json"),
                "figures": self.figures,
                "facts": self.facts,
                "started": self.started.isoformat(),
                "ended": self.ended.isoformat(),
            }
        )
        return shown


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """A JSON value without NaN and infinities, which JSON has no word for; they become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return finite(value)
    return value

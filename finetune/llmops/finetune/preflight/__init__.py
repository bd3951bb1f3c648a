"""What is looked at before a training may start: checks with verdicts, one table, and one error with all failures.

Knows no model and no data: `data_checks` and `model_checks` look, this module says what a check is and when a run is
refused. A training that starts wrong costs days, so a failed check stops it; a warning is kept with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmops.core.errors import GateFailedError
from llmops.finetune.preflight.known import CHECKS

Verdict = Literal["pass", "warn", "fail", "skipped"]
_MARKS: dict[Verdict, str] = {"pass": "ok", "warn": "warn", "fail": "FAIL", "skipped": "-"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: stable, for programs: one of `known.CHECKS`.
        what: one sentence with the figures: what was found.
        hint: what to do about it; empty where it passed.
        figures: what was measured, for programs.
    """

    name: str
    verdict: Verdict
    what: str
    hint: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in CHECKS:
            raise ValueError(f"no check is known as {self.name}")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Preflight:
    """All checks of one run, in the order in which they were made."""

    checks: tuple[Check, ...]

    @classmethod
    def of(cls, *parts: Iterable[Check]) -> Preflight:
        return cls(tuple(check for part in parts for check in part))

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict == "fail")

    @property
    def warnings(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict == "warn")

    def require(self, *, where: str | None = None) -> None:
        """Go on only where nothing failed.

        Raises:
            GateFailedError: names every failed check with what to do.
        """
        if not self.failures:
            return
        count = len(self.failures)
        raise GateFailedError(
            f"preflight refused to start: {count} check{'s' * (count > 1)} failed\n"
            + "\n".join(f"  {check.name}: {check.what}" for check in self.failures),
            where=where,
            hint="; ".join(dict.fromkeys(check.hint for check in self.failures if check.hint)) or None,
            code="preflight_failed",
        )

    def as_json(self) -> dict[str, Any]:
        return {"passed": not self.failures, "checks": [check.as_json() for check in self.checks]}

    def text(self) -> str:
        """A line a check, what to do below those that did not pass."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{_MARKS[check.verdict]:<4}  {check.name:<{width}}  {check.what}")
            if check.hint and check.verdict in ("warn", "fail"):
                lines.append(f"{'':<{width + 6}}  hint: {check.hint}")
        return "\n".join(lines)

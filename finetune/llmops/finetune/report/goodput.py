"""How much of the time went into steps that count: what was done again after a kill, and waiting, is not progress.

Knows a run's record and the lines of its metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from llmops.finetune.runs import RunRecord


@dataclass(frozen=True)
class Goodput:
    """Where the seconds went.

    Args:
        useful_s: in steps that the result is made of.
        replayed_s: in steps that were done again, or lost.
        checkpoint_s: in writing checkpoints.
        wall_s: from the run's begin to its last change, pauses between attempts included.
    """

    useful_s: float
    replayed_s: float
    checkpoint_s: float
    wall_s: float
    attempts: int

    @property
    def share(self) -> float:
        """Of the wall time; 1 would be nothing but progress."""
        return min(1.0, self.useful_s / self.wall_s) if self.wall_s > 0 else 0.0

    @property
    def of_steps(self) -> float:
        """Of the time in steps: 1 where no step was done again."""
        spent = self.useful_s + self.replayed_s
        return self.useful_s / spent if spent > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "goodput": self.share, "goodput_of_steps": self.of_steps}


def goodput(record: RunRecord, steps: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]] = ()) -> Goodput:
    """Of a run.

    Args:
        steps: the lines of metrics.jsonl, in which a step that was done again stands once.
    """
    useful = sum(float(one["seconds"]) for one in steps)
    saving = sum(float(one.get("seconds", 0)) for one in events if one.get("kind") == "checkpoint")
    begin, end = (datetime.fromisoformat(text) for text in (record.started_at, record.updated_at))
    wall = max((end - begin).total_seconds(), useful)
    return Goodput(useful, max(0.0, record.trained_s - useful), saving, wall, record.attempts)

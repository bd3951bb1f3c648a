"""Rows of at most `max_length` tokens: what is done with longer ones is the job's decision, and is counted."""

from __future__ import annotations

from collections.abc import Sequence

from llmops.finetune.config import DataConfig
from llmops.finetune.data.dataset import Problem
from llmops.finetune.data.examples import Example, Preference, Tokens
from llmops.finetune.data.tally import Tally

_NAMED = 5


class Fitting:
    """Fits the rows of one example after the other, and knows in the end what did not fit."""

    def __init__(self, data: DataConfig, tally: Tally) -> None:
        self._data, self._tally = data, tally
        self._overlong: list[str] = []
        self._longest = 0

    def fitted(self, example: Example, rows: Sequence[Tokens]) -> list[Tokens]:
        """The rows to learn from: all, the parts of split ones, or none."""
        limit = self._data.max_length
        if all(len(row.ids) <= limit for row in rows):
            return list(rows)
        self._longest = max(self._longest, *(len(row.ids) for row in rows))
        if self._data.on_overlong == "split" and not isinstance(example.content, Preference):
            self._tally.count(example.source, "split")
            return _parts(rows, example.id, limit)
        self._tally.count(example.source, "overlong")
        self._tally.report("overlong", f"{example.where} has {max(len(row.ids) for row in rows)} tokens")
        if self._data.on_overlong != "drop":
            self._overlong.append(example.where)
        return []

    def problems(self) -> list[Problem]:
        if not self._overlong:
            return []
        count = len(self._overlong)
        what = f"{count} examples are longer than data.max_length ({self._data.max_length} tokens): {self._overlong[0]}"
        hint = f"set data.max_length to {self._longest}, the longest, or data.on_overlong to drop or split"
        return [Problem("overlong", count, what, hint, tuple(self._overlong[:_NAMED]))]


def _parts(rows: Sequence[Tokens], id: str, limit: int) -> list[Tokens]:
    """All rows cut at the limit; a part of which nothing is learned is left out, unless nothing would remain."""
    cut = [
        (row.ids[start : start + limit], row.supervised[start : start + limit])
        for row in rows
        for start in range(0, len(row.ids), limit)
    ]
    kept = [(ids, supervised) for ids, supervised in cut if any(supervised[1:])] or cut[:1]
    return [Tokens(ids, supervised, f"{id}:{number}") for number, (ids, supervised) in enumerate(kept)]

"""What became of every row that was read: counts by source, and the first of each kind in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

from llmops.core.errors import UserError


@dataclass(frozen=True)
class Counts:
    """What became of the rows of one source, or of all."""

    read: int = 0
    bad: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    contaminated: int = 0
    overlong: int = 0
    split: int = 0
    heldout: int = 0
    examples: int = 0
    rows: int = 0
    tokens: int = 0
    supervised_tokens: int = 0


class Tally:
    """Counts as rows go by.

    Args:
        skip_bad: a row that cannot be read is counted; else it ends the reading.
    """

    _REPORTS = 20

    def __init__(self, sources: int, *, skip_bad: bool) -> None:
        self._numbers: list[Counter[str]] = [Counter() for _ in range(sources)]
        self.skip_bad = skip_bad
        self.reports: dict[str, list[str]] = {}

    def count(self, source: int, kind: str, number: int = 1) -> None:
        self._numbers[source][kind] += number

    def report(self, kind: str, what: str) -> None:
        """Keep what happened in words, if it is one of the first."""
        kept = self.reports.setdefault(kind, [])
        if len(kept) < self._REPORTS:
            kept.append(what)

    def bad(self, source: int, error: UserError) -> None:
        """A row that cannot be read.

        Raises:
            UserError: this one, unless such rows are skipped.
        """
        if not self.skip_bad:
            raise error
        self.count(source, "bad")
        self.report("bad", f"{error.where}: {error.what}")

    @property
    def by_source(self) -> tuple[Counts, ...]:
        return tuple(Counts(**one) for one in self._numbers)

    @property
    def total(self) -> Counts:
        return Counts(**{one.name: sum(n[one.name] for n in self._numbers) for one in fields(Counts)})

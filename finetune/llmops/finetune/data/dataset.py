"""A prepared data set: rows of tokens, the examples they came from, what was left out and why.

It lies in a folder of the cache under its digest, and is read from there by every rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import GateFailedError
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.order import Order, RowFeed
from llmops.finetune.data.rows import Examples, TokenRows
from llmops.finetune.data.sources import SourceRead
from llmops.finetune.data.tally import Counts

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Problem:
    """Something in the data that has to be decided before it is learned from.

    Args:
        kind: `overlong`, `contaminated`, `unsupervised`.
        count: how many rows.
        where: the first of them.
    """

    kind: str
    count: int
    what: str
    hint: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """Figures of what is learned from.

    Args:
        longest: tokens of the longest row.
        unsupervised: rows of which nothing is learned.
        packed_rows: of one epoch.
        density: share of a packed row that is no padding.
        reports: of what was left out, the first of each kind, in words.
    """

    total: Counts
    by_source: tuple[Counts, ...]
    longest: int = 0
    unsupervised: int = 0
    packed_rows: int = 0
    density: float = 0.0
    reports: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def supervised_share(self) -> float:
        return self.total.supervised_tokens / self.total.tokens if self.total.tokens else 0.0


@dataclass(frozen=True)
class Dataset:
    """What `prepare` gives.

    Args:
        digest: of the rows' tokens and ids: the same where the same would be learned.
        sources: what was read, with the digest of each file.
        renderer: fingerprint of tokenizer and template.
        problems: what has to be decided first; `feed` refuses while there are some.
    """

    folder: Path
    digest: str
    renderer: str
    sources: tuple[SourceRead, ...]
    statistics: Statistics
    problems: tuple[Problem, ...]
    rows: TokenRows
    examples: Examples
    heldout: TokenRows
    heldout_examples: Examples

    def feed(self, config: FinetuneConfig, rows_per_step: int) -> RowFeed:
        """The steps of a training.

        Raises:
            GateFailedError: the data is empty, or has problems.
        """
        self.require()
        return RowFeed(self.rows, order_of(self.rows, config), rows_per_step=rows_per_step, data=self.digest)

    def require(self) -> None:
        """Go on only with data that can be learned from."""
        if self.problems:
            first = self.problems[0]
            raise GateFailedError(
                first.what, where=next(iter(first.where), None), hint=first.hint, code=f"data_{first.kind}"
            )
        if not len(self.rows):
            raise GateFailedError(
                "no row is left to learn from",
                where=", ".join(one.uri for one in self.sources),
                hint=f"of {self.statistics.total.read} rows that were read none remained: see the counts",
                code="data_empty",
            )

    def as_json(self) -> dict[str, Any]:
        """Everything but the rows: for the run's folder and the model's card."""
        return manifest_of(self.digest, self.renderer, self.sources, self.statistics, self.problems)

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """The data set of a folder that `prepare` finished."""
        found = orjson.loads((folder / MANIFEST).read_bytes())
        figures = found["statistics"]
        figures.pop("supervised_share")
        figures["total"] = Counts(**figures["total"])
        figures["by_source"] = tuple(Counts(**one) for one in figures["by_source"])
        examples, heldout = Examples(folder / "train"), Examples(folder / "heldout")
        return cls(
            folder,
            found["digest"],
            found["renderer"],
            tuple(SourceRead.from_json(one) for one in found["sources"]),
            Statistics(**figures),
            tuple(Problem(**{**one, "where": tuple(one["where"])}) for one in found["problems"]),
            TokenRows(folder / "train", examples),
            examples,
            TokenRows(folder / "heldout", heldout),
            heldout,
        )


def manifest_of(
    digest: str,
    renderer: str,
    sources: Sequence[SourceRead],
    statistics: Statistics,
    problems: Sequence[Problem],
) -> dict[str, Any]:
    """Everything of a data set but its rows, as JSON."""
    return {
        "digest": digest,
        "renderer": renderer,
        "sources": [source.as_json() for source in sources],
        "statistics": {**asdict(statistics), "supervised_share": statistics.supervised_share},
        "problems": [asdict(problem) for problem in problems],
    }


def order_of(rows: TokenRows, config: FinetuneConfig) -> Order:
    weights = [source.weight for source in config.data.sources]
    given = [one for one in weights if one is not None]
    return Order(
        rows.keys,
        rows.lengths,
        rows.sources,
        seed=config.train.seed,
        weights=given or None,
        capacity=config.data.max_length if config.data.packing == "bfd" else None,
    )

"""Steps over more than fits in memory: rows are read as they are needed, shuffled a buffer at a time.

A buffer is filled, put in the order that the seed and the examples' ids say, packed, and emptied. So a position is
small and exact: where each source stood when the buffer was begun, and how many packed rows were taken of it. Whoever
goes on reads that buffer again and skips those. Held-out rows are passed over by their questions, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmops.core.errors import GateFailedError, UserError
from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.contamination import EvaluationSet
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.data.examples import Example, Tokens
from llmops.finetune.data.fitting import Fitting
from llmops.finetune.data.formats import example
from llmops.finetune.data.heldout import is_heldout
from llmops.finetune.data.mixing import shares, spread
from llmops.finetune.data.order import Feed, Order, Step, require_same
from llmops.finetune.data.packing import Document, PackedRow
from llmops.finetune.data.rows import row_keys
from llmops.finetune.data.sources import BadRowError, open_source, read
from llmops.finetune.data.tally import Tally
from llmops.finetune.data.template import Renderer
from llmops.finetune.data.words import question, questions


@dataclass(frozen=True)
class Place:
    """Where a source stands: in which part of it (a file), before which row of it, how often it was read through.

    Args:
        seen: rows of this pass, over all parts.
    """

    part: int = 0
    row: int = 0
    seen: int = 0
    passes: int = 0


def open_feed(
    dataset: Dataset,
    config: FinetuneConfig,
    tokenizer: Any,
    state: StateConfig,
    *,
    rows_per_step: int,
    base: Path = Path(),
) -> Feed:
    """The steps of a training: over the prepared rows, or over a stream where the job asks for one.

    Raises:
        GateFailedError: the data is empty, or has problems.
    """
    if not config.data.streaming:
        return dataset.feed(config, rows_per_step)
    dataset.require()
    filter_ = _Filter(config, Renderer(tokenizer, config), dataset, state, base)
    return StreamFeed(config, filter_, state, rows_per_step=rows_per_step, data=dataset.digest, base=base)


class StreamFeed:
    """Steps of a stream. Nothing but one buffer is held in memory; buffer 0 is empty."""

    def __init__(
        self,
        config: FinetuneConfig,
        filter_: _Filter,
        state: StateConfig,
        *,
        rows_per_step: int,
        data: str,
        base: Path = Path(),
    ) -> None:
        self._config, self._filter, self._rows_per_step, self._data = config, filter_, rows_per_step, data
        self._readers = [_Reader(number, config, state, base) for number in range(len(config.data.sources))]
        self._step = 0
        self._begin(tuple(Place() for _ in self._readers), buffer=0, taken=0)

    def take(self) -> Step:
        """The next step.

        Raises:
            GateFailedError: a row is too long or gives an evaluation away, or there is no row at all.
        """
        epoch = min(place.passes for place in self._places)
        rows: list[PackedRow] = []
        while len(rows) < self._rows_per_step:
            if self._taken == len(self._rows):
                self._begin(self._after, self._buffer + 1, taken=0)
            some = self._rows[self._taken : self._taken + self._rows_per_step - len(rows)]
            rows += some
            self._taken += len(some)
        self._step += 1
        return Step(self._step - 1, epoch, tuple(rows))

    def position(self) -> dict[str, Any]:
        return {
            "data": self._data,
            "rows_per_step": self._rows_per_step,
            "step": self._step,
            "buffer": self._buffer,
            "taken": self._taken,
            "places": [asdict(place) for place in self._places],
        }

    def go_to(self, position: dict[str, Any]) -> None:
        require_same(position, data=self._data, rows_per_step=self._rows_per_step)
        self._step = int(position["step"])
        self._begin(tuple(Place(**one) for one in position["places"]), position["buffer"], position["taken"])

    def _begin(self, places: tuple[Place, ...], buffer: int, taken: int) -> None:
        self._places = self._after = places
        self._buffer, self._taken = buffer, taken
        self._rows: list[PackedRow] = []
        empty = 0
        while buffer and not self._rows:
            self._rows = self._packed(self._filter.documents(self._filled()), buffer)
            empty += not self._rows
            if empty and all(after.passes > before.passes for after, before in zip(self._after, places, strict=True)):
                raise GateFailedError("no row of the sources can be learned from", code="data_empty")

    def _filled(self) -> list[tuple[Example, int]]:
        """The next rows of the sources, each with the pass it is of; ends with an epoch, unless there are weights."""
        size = self._config.data.shuffle_buffer
        weights = [source.weight for source in self._config.data.sources if source.weight is not None]
        places = list(self._after)
        found: list[tuple[Example, int]] = []
        if weights:
            for number in spread(shares(weights, size)).tolist():
                one, places[number] = self._readers[number].next(places[number], again=True)
                found += [(one, places[number].passes)] if one is not None else []
        else:
            this_pass = min(place.passes for place in places)
            for number, reader in enumerate(self._readers):
                while len(found) < size and places[number].passes == this_pass:
                    one, places[number] = reader.next(places[number])
                    found += [(one, this_pass)] if one is not None else []
        self._after = tuple(places)
        return found

    def _packed(self, documents: list[tuple[Document, int]], buffer: int) -> list[PackedRow]:
        """The buffer's rows in their order."""
        if not documents:
            return []
        ids = np.asarray([bytes.fromhex(one.id[:64]) for one, _ in documents], "V32")
        parts = np.asarray([int(one.id[65:] or -1) + (passes << 16) for one, passes in documents], np.int32)
        capacity = self._config.data.max_length if self._config.data.packing == "bfd" else None
        order = Order(
            row_keys(ids, parts),
            np.asarray([len(one.ids) for one, _ in documents]),
            np.zeros(len(documents), np.int32),
            seed=self._config.train.seed,
            capacity=capacity,
        )
        return [[documents[place][0] for place in row] for row in order.epoch(buffer)]


class _Reader:
    """Examples of one source from any place on; the file that was last read stays open."""

    def __init__(self, number: int, config: FinetuneConfig, state: StateConfig, base: Path) -> None:
        self._number, self._source = number, config.data.sources[number]
        self._opened = open_source(self._source, state, base)
        self._tally = Tally(len(config.data.sources), skip_bad=config.data.on_bad == "skip")
        self._at: Place | None = None
        self._rows: Iterator[Any] = iter(())

    def next(self, place: Place, *, again: bool = False) -> tuple[Example | None, Place]:
        """The example at a place and the place behind it; None where a bad row, or the end of a pass, is met.

        Args:
            again: at the end of a pass go on with the next one.
        """
        if self._at != place:
            self._rows = self._opened.rows(place.part, place.row)
        found = next(self._rows, None) if place.seen != self._source.limit else None
        if found is None:
            last = place.part + 1 == self._opened.parts() or place.seen == self._source.limit
            self._at = None
            behind = Place(0, 0, 0, place.passes + 1) if last else Place(place.part + 1, 0, place.seen, place.passes)
            if last and (not again or not place.seen):
                return None, behind
            return self.next(behind, again=again)
        self._at = Place(place.part, place.row + 1, place.seen + 1, place.passes)
        row, where = found
        try:
            if isinstance(row, BadRowError):
                raise row
            return example(row, where, self._source.format, self._number), self._at
        except BadRowError as error:
            self._tally.bad(self._number, error)
            return None, self._at


class _Filter:
    """What of a buffer is learned: nothing twice, nothing held out, nothing of an evaluation set, nothing too long."""

    def __init__(
        self, config: FinetuneConfig, renderer: Renderer, dataset: Dataset, state: StateConfig, base: Path
    ) -> None:
        if config.data.dedup == "near":
            raise UserError("near duplicates cannot be found in a stream", hint="set data.dedup to exact or none")
        self._config, self._renderer = config, renderer
        given = list(dataset.heldout_examples) if config.data.heldout else []
        self._apart = {one.id for one in given} | {asked for one in given if (asked := question(one))}
        self._share = 0.0 if config.data.heldout else config.data.heldout_share
        sets = config.data.contamination
        self._evaluation = EvaluationSet(
            example(row, where, one.format) for one in sets for row, where in read(one, state, base)
        )

    def documents(self, rows: list[tuple[Example, int]]) -> list[tuple[Document, int]]:
        tally = Tally(len(self._config.data.sources), skip_bad=False)
        fitting = Fitting(self._config.data, tally)
        kept = [(one, passes) for one, passes in self._once(rows) if not self._left_out(one)]
        found = []
        for (one, passes), tokens in zip(kept, self._renderer.batch([one for one, _ in kept]), strict=True):
            found += [(_document(row), passes) for row in fitting.fitted(one, tokens)]
        for problem in fitting.problems():
            raise GateFailedError(problem.what, where=problem.where[0], hint=problem.hint, code="data_overlong")
        return found

    def _once(self, rows: list[tuple[Example, int]]) -> list[tuple[Example, int]]:
        if self._config.data.dedup == "none":
            return rows
        return list({(one.id, passes): (one, passes) for one, passes in rows}.values())

    def _left_out(self, one: Example) -> bool:
        if one.id in self._apart or not self._apart.isdisjoint(questions(one)) or is_heldout(one, self._share):
            return True
        hit = self._evaluation.given_away_by(one)
        if hit is not None and self._config.data.on_contamination == "error":
            hint = "take it out, or set data.on_contamination: drop"
            raise GateFailedError(
                f"a row of an evaluation set would be learned: {hit}",
                where=one.where,
                hint=hint,
                code="data_contaminated",
            )
        return hit is not None


def _document(row: Tokens) -> Document:
    return Document(row.id, np.asarray(row.ids, np.int32), np.asarray(row.supervised, np.bool_))

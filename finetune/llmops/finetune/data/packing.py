"""Short documents side by side in rows of full length, so that no step is spent on padding, and none sees another.

Best fit decreasing: the longest first, each into the fullest row that still has room. No document is cut. Positions
restart with each, and the first token of each is never a label, since what stands before it is another's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmops.core.errors import UserError

IGNORED = -100
"""The label of a token that is not learned, as PyTorch's cross entropy has it."""


@dataclass(frozen=True)
class Document:
    """One row of tokens on its way into a batch; arrays of equal length."""

    id: str
    ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]


PackedRow = Sequence[Document]


@dataclass(frozen=True)
class Batch:
    """What a model is given: arrays of rows x width.

    Args:
        labels: the id where it is supervised, else -100. Not shifted: position t holds the token that stands at t.
        position_ids: from 0 in each document; padding is a document of its own.
        documents: the number of the document in its row, -1 for padding.
    """

    input_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int32]

    @property
    def supervised_tokens(self) -> int:
        """Labels that count: what a loss has to be divided by, summed over all batches of a step."""
        return int((self.labels != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int((self.documents >= 0).sum())

    def cu_seqlens(self) -> npt.NDArray[np.int32]:
        """Where documents begin when the rows are laid end to end, and where the last ends (flash attention's form)."""
        starts = np.flatnonzero(self.position_ids.ravel() == 0)
        return np.append(starts, self.position_ids.size).astype(np.int32)

    def mask(self) -> npt.NDArray[np.bool_]:
        """rows x 1 x width x width: whether a token sees another: of its own document, not after it."""
        same = self.documents[:, None, :, None] == self.documents[:, None, None, :]
        width = self.documents.shape[1]
        seen: npt.NDArray[np.bool_] = same & np.tril(np.ones((width, width), np.bool_))
        return seen


def best_fit_decreasing(lengths: Sequence[int] | npt.NDArray[Any], capacity: int) -> list[list[int]]:
    """Rows of at most `capacity` tokens; each document's place is in exactly one. O(n log n) for a given capacity.

    Raises:
        UserError: one is longer than a row.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and int(sizes.max()) > capacity:
        raise UserError(f"a document has {int(sizes.max())} tokens, and a row {capacity}", hint="raise data.max_length")
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where some row has room for exactly r tokens: the fullest that fits is one shift away
    for place, size in zip(*_longest_first(sizes), strict=True):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            number = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
            bins[number].append(place)
        else:
            room, number = capacity, len(bins)
            bins.append([place])
        left = room - size
        by_room.setdefault(left, []).append(number)
        rooms |= 1 << left
    return bins


def _longest_first(sizes: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    order = np.argsort(-sizes, kind="stable")
    return order.tolist(), sizes[order].tolist()


def collate(rows: Sequence[PackedRow], pad: int, width: int | None = None) -> Batch:
    """A batch of packed rows.

    Args:
        pad: the id that fills up; no label ever, even where it is also the end of text.
        width: tokens of a row; default: the longest of these.
    """
    widest = max((sum(len(one.ids) for one in row) for row in rows), default=0)
    shape = (len(rows), widest if width is None else width)
    if widest > shape[1]:
        raise UserError(f"a row has {widest} tokens, and the batch is {shape[1]} wide")
    batch = Batch(
        np.full(shape, pad, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64),
        np.full(shape, -1, np.int32),
    )  # fmt: skip
    for number, row in enumerate(rows):
        start = 0
        for which, one in enumerate(row):
            end = start + len(one.ids)
            batch.input_ids[number, start:end] = one.ids
            batch.labels[number, start:end] = np.where(one.supervised, one.ids, IGNORED)
            batch.labels[number, start : start + 1] = IGNORED
            batch.position_ids[number, start:end] = np.arange(end - start)
            batch.documents[number, start:end] = which
            start = end
        batch.position_ids[number, start:] = np.arange(shape[1] - start)
    return batch

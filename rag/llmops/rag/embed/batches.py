"""Texts to rectangles of token ids: as little padding, and as few distinct shapes, as can be.

Knows tokens and shapes. It tokenizes serially: at 0.2 ms a chunk threads would gain nothing, and Hugging Face's
tokenizers warn on the terminal when a process forks after they used theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]

_WINDOW = 4096
"""Texts tokenized and sorted at a time, which bounds memory."""
_STEP = 16
"""Widths are multiples of this, so that kernels made for a shape are met again (measured: 16 beat 1, 8 and 32)."""
_SPARE = 32
"""Tokens of padding worth an inference of its own: one costs as much as some 20 tokens, a shape never met 60 more."""
_LONGEST_TEXT = 100_000
"""Characters read of a text, or 32 a token where that is more; only far longer than any chunk does it cut."""


@dataclass(frozen=True)
class Batch:
    """A rectangle of tokens: `places` are the texts' numbers, `ids` and `mask` are (texts, width)."""

    places: NDArray[np.int64]
    ids: Ids
    mask: Ids


class Tokens:
    """A tokenizer, truncating as the model was trained to, and the rectangles it fills."""

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, pad_id: int, batch_tokens: int) -> None:
        """Take over a `tokenizers.Tokenizer`: its own truncation and padding are replaced."""
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self._budget = max(batch_tokens, 1)
        self._max_length = max_length
        self._longest = max(_LONGEST_TEXT, 32 * max_length)

    def batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """All texts, longest first within a window: memory peaks at once, and the last batches are short."""
        for start in range(0, len(texts), _WINDOW):
            encoded = [self._encode(text) for text in texts[start : start + _WINDOW]]
            lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
            order = np.argsort(-lengths, kind="stable")
            place = 0
            while place < len(order):
                chosen = order[place : place + self._fitting(lengths[order[place:]])]
                yield self._rectangle([encoded[n] for n in chosen], chosen + start)
                place += len(chosen)

    def _fitting(self, lengths: NDArray[np.int64]) -> int:
        """How many of these texts, longest first, share a rectangle: as the budget allows, and without much padding."""
        widest = self._width(int(lengths[0]))
        count, spare = 1, 0
        while count < len(lengths) and (count + 1) * widest <= self._budget:
            spare += widest - self._width(int(lengths[count]))
            if spare > _SPARE:
                break
            count += 1
        return count

    def _encode(self, text: str) -> list[int]:
        text = text[: self._longest]
        try:
            ids: list[int] = self._tokenizer.encode(text).ids
        except (TypeError, UnicodeEncodeError):  # half of a surrogate pair, which no tokenizer takes
            ids = self._tokenizer.encode(text.encode("utf-8", "replace").decode()).ids
        return ids

    def _width(self, length: int) -> int:
        return min(-(-max(length, 1) // _STEP) * _STEP, max(self._max_length, length))

    def _rectangle(self, encoded: list[list[int]], places: NDArray[np.int64]) -> Batch:
        width = self._width(max(len(ids) for ids in encoded))
        ids = np.full((len(encoded), width), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(encoded), width), dtype=np.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        return Batch(places, ids, mask)

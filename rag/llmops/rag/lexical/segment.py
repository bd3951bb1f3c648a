"""An immutable piece of an inverted index: made once, written once, then only read, in place, from its bytes.

Knows terms, rows, counts and lengths. It knows no scores and no deletions: those belong to the whole (`bm25`).

Layout, little-endian, each array starting at a multiple of 8:
    magic 8s, crc32 of all that follows u32, format u32, fingerprint 32s, sizes 4 x u64 (terms, postings, rows, blob)
    posting_offsets u64[terms + 1], postings_rows u32[postings], postings_counts u16[postings],
    rows u32[rows], lengths u32[rows], term_offsets u32[terms + 1], blob u8[...]: the terms in UTF-8, sorted by bytes
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import IntegrityError, UserError
from llmops.rag.lexical.analyzer import FINGERPRINT, analyze

_MAGIC = b"LLMOPSLX"
_FORMAT = 1
_HEADER = struct.Struct("<8sII32s4Q")
_CRC_FROM = 12
_MAX_COUNT = 65_535
_ROW_BITS = np.uint64(32)
_BEGINNING = 8

Rows = NDArray[np.uint32]
Counts = NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Segment:
    """Postings in compressed sparse rows: those of term i lie at `posting_offsets[i]:posting_offsets[i + 1]`.

    Within a term, rows ascend. `rows` holds every row of the segment, ascending, also one without any term, and
    `lengths` its number of terms. A term counts at most 65,535 times in a row.
    """

    posting_offsets: NDArray[np.uint64]
    postings_rows: Rows
    postings_counts: Counts
    rows: Rows
    lengths: NDArray[np.uint32]
    term_offsets: NDArray[np.uint32]
    blob: memoryview

    @classmethod
    def build(cls, rows: Iterable[tuple[int, str]]) -> Segment:
        """Index (row, text) pairs.

        Raises:
            UserError: a row is named twice, or does not fit in 32 bits.
        """
        vocabulary: dict[str, int] = {}
        numbers: list[int] = []
        lengths: list[int] = []
        ids: list[int] = []
        number = vocabulary.setdefault
        for row, text in rows:
            terms = analyze(text)
            ids += [number(term, len(vocabulary)) for term in terms]
            numbers.append(row)
            lengths.append(len(terms))
        if len(set(numbers)) != len(numbers) or any(not 0 <= row < 2**32 for row in numbers):
            raise UserError("the rows of a segment must be distinct, and from 0 to 4,294,967,295")
        every_row = np.array(numbers, dtype=np.uint32)
        every_length = np.array(lengths, dtype=np.uint32)
        keys = (np.array(ids, dtype=np.uint64) << _ROW_BITS) | np.repeat(every_row, every_length).astype(np.uint64)
        keys, counts = np.unique(keys, return_counts=True)
        order = np.argsort(every_row)
        return _assemble([term.encode() for term in vocabulary], keys, counts, every_row[order], every_length[order])

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Segment:
        """Read a segment in place: its arrays are views of `data` (bytes, or the memoryview of an mmap).

        Raises:
            IntegrityError: the bytes are not a whole segment, were changed, or were made by other analysis rules.
        """
        view = memoryview(data).cast("B")
        if len(view) < _HEADER.size:
            raise _corrupt("it is too short")
        magic, crc, version, fingerprint, terms, postings, rows, blob = _HEADER.unpack_from(view)
        if magic != _MAGIC:
            raise _corrupt("it does not start as one")
        if zlib.crc32(view[_CRC_FROM:]) != crc:
            raise _corrupt("its checksum does not match")
        made_by = fingerprint.rstrip(b"\0").decode(errors="replace")
        if version != _FORMAT or made_by != FINGERPRINT:
            raise IntegrityError(
                f"the lexical segment was made by other rules ({version}, {made_by}; here {_FORMAT}, {FINGERPRINT})",
                hint="build the segment again from its texts",
            )
        shapes = _shapes(terms, postings, rows, blob)
        arrays: list[NDArray[Any]] = []
        place = _HEADER.size
        for dtype, size in shapes:
            place = _aligned(place)
            if place + size * np.dtype(dtype).itemsize > len(view):
                raise _corrupt("its sizes do not fit")
            arrays.append(np.frombuffer(view, dtype=dtype, count=size, offset=place))
            place += size * np.dtype(dtype).itemsize
        if place != len(view):
            raise _corrupt("its sizes do not fit")
        return cls(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], arrays[5], view[place - blob : place])

    def to_bytes(self) -> bytes:
        """The segment as one block of bytes, the same on every machine for the same rows and texts."""
        sizes = (len(self.term_offsets) - 1, len(self.postings_rows), len(self.rows), len(self.blob))
        out = bytearray(_HEADER.pack(_MAGIC, 0, _FORMAT, FINGERPRINT.encode(), *sizes))
        parts: list[NDArray[Any]] = [self.posting_offsets, self.postings_rows, self.postings_counts]
        parts += [self.rows, self.lengths, self.term_offsets, np.frombuffer(self.blob, dtype=np.uint8)]
        for (dtype, _), array in zip(_shapes(*sizes), parts, strict=True):
            out += bytes(_aligned(len(out)) - len(out))
            out += array.astype(dtype, copy=False).tobytes()
        struct.pack_into("<I", out, 8, zlib.crc32(memoryview(out)[_CRC_FROM:]))
        return bytes(out)

    @property
    def terms(self) -> list[bytes]:
        """Every term, sorted, in UTF-8."""
        edges = self.term_offsets.tolist()
        return [bytes(self.blob[start:end]) for start, end in pairwise(edges)]

    def postings(self, term: str) -> tuple[Rows, Counts]:
        """The rows that hold a term, ascending, and how often each does; empty for a term never seen."""
        wanted = term.encode()
        beginnings, offsets = self._lookup
        beginning = int.from_bytes(wanted[:_BEGINNING].ljust(_BEGINNING, b"\0"))
        place = after = bisect_left(beginnings, beginning)
        if place < len(beginnings) and beginnings[place] == beginning:
            after = place + 1
            if len(wanted) >= _BEGINNING:  # a shorter one has its beginning alone
                after = bisect_right(beginnings, beginning, after)
                place = bisect_left(range(after), wanted, place, key=self._term)
        if place == after or (len(wanted) >= _BEGINNING and self._term(place) != wanted):
            return self.postings_rows[:0], self.postings_counts[:0]
        start, end = offsets[place], offsets[place + 1]
        return self.postings_rows[start:end], self.postings_counts[start:end]

    @cached_property
    def _lookup(self) -> tuple[memoryview, memoryview]:
        """The first bytes of each term as one number, ascending with the terms, and `posting_offsets`.

        Views, since Python reads their items several times faster than an array's.
        """
        starts = self.term_offsets[:-1].astype(np.int64)
        sizes = np.diff(self.term_offsets.astype(np.int64))
        blob = np.frombuffer(self.blob, dtype=np.uint8)
        first = np.zeros((len(sizes), _BEGINNING), dtype=np.uint8)
        for place in range(_BEGINNING):
            long = np.flatnonzero(sizes > place)
            first[long, place] = blob[starts[long] + place]
        return first.view(">u8")[:, 0].astype(np.uint64).data, self.posting_offsets.data

    def _term(self, place: int) -> bytes:
        return bytes(self.blob[int(self.term_offsets[place]) : int(self.term_offsets[place + 1])])


def merge(segments: Sequence[Segment], live: NDArray[np.bool_]) -> Segment:
    """One segment of the live rows of several: byte for byte what `Segment.build` makes of those rows' texts.

    Args:
        live: by row number; rows past its end are dead.
    """
    vocabulary: dict[bytes, int] = {}
    keys, counts, rows, lengths = [], [], [], []
    for segment in segments:
        numbers = [vocabulary.setdefault(term, len(vocabulary)) for term in segment.terms]
        ids = np.repeat(np.array(numbers, dtype=np.uint64), np.diff(segment.posting_offsets).astype(np.int64))
        kept = alive(segment.postings_rows, live)
        keys.append((ids[kept] << _ROW_BITS) | segment.postings_rows[kept].astype(np.uint64))
        counts.append(segment.postings_counts[kept])
        kept = alive(segment.rows, live)
        rows.append(segment.rows[kept])
        lengths.append(segment.lengths[kept])
    all_keys, all_counts = _joined(keys, np.uint64), _joined(counts, np.uint16)
    all_rows, all_lengths = _joined(rows, np.uint32), _joined(lengths, np.uint32)
    order = np.argsort(all_keys, kind="stable")
    row_order = np.argsort(all_rows, kind="stable")
    return _assemble(list(vocabulary), all_keys[order], all_counts[order], all_rows[row_order], all_lengths[row_order])


def alive(rows: Rows, live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of `rows` are live."""
    if not len(rows):
        return np.zeros(0, dtype=np.bool_)
    if int(rows.max()) < len(live):
        return live[rows]
    inside = rows < len(live)
    inside[inside] = live[rows[inside]]
    return inside


def _assemble(
    vocabulary: list[bytes],
    keys: NDArray[np.uint64],
    counts: NDArray[Any],
    rows: Rows,
    lengths: NDArray[np.uint32],
) -> Segment:
    """Turn sorted (term number, row) keys into a segment whose terms are sorted by their bytes; unused terms go."""
    ids = (keys >> _ROW_BITS).astype(np.int64)
    sizes = np.bincount(ids, minlength=len(vocabulary))
    starts = np.concatenate(([0], np.cumsum(sizes)))
    used = sorted((term, number) for number, term in enumerate(vocabulary) if sizes[number])
    numbers = np.array([number for _, number in used], dtype=np.int64)
    lens = sizes[numbers] if len(numbers) else np.zeros(0, dtype=np.int64)
    posting_offsets = np.concatenate(([0], np.cumsum(lens))).astype(np.uint64)
    # Move each term's run of postings to its sorted place: old place = start of the run + place in the run.
    shift = (starts[numbers] if len(numbers) else lens) - posting_offsets[:-1].astype(np.int64)
    order = np.arange(len(keys), dtype=np.int64) + np.repeat(shift, lens)
    text_sizes = np.array([len(term) for term, _ in used], dtype=np.int64)
    return Segment(
        posting_offsets=posting_offsets,
        postings_rows=(keys[order] & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        postings_counts=np.minimum(counts[order], _MAX_COUNT).astype(np.uint16),
        rows=rows,
        lengths=lengths,
        term_offsets=np.concatenate(([0], np.cumsum(text_sizes))).astype(np.uint32),
        blob=memoryview(b"".join(term for term, _ in used)),
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def _shapes(terms: int, postings: int, rows: int, blob: int) -> tuple[tuple[str, int], ...]:
    return (
        ("<u8", terms + 1), ("<u4", postings), ("<u2", postings), ("<u4", rows), ("<u4", rows), ("<u4", terms + 1),
        ("u1", blob),
    )  # fmt: skip


def _aligned(place: int) -> int:
    return (place + 7) & ~7


def _corrupt(why: str) -> IntegrityError:
    return IntegrityError(f"the lexical segment is damaged: {why}", hint="build the segment again from its texts")

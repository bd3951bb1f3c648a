"""Packing, order and mixing: no token lost, doubled or seen by another document; every epoch all rows, in any order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.core.errors import UserError
from llmops.finetune.data.mixing import shares, spread
from llmops.finetune.data.order import Order
from llmops.finetune.data.packing import IGNORED, Document, best_fit_decreasing, collate

LENGTHS = st.lists(st.integers(1, 32), max_size=60)


@settings(deadline=None)
@given(LENGTHS)
def test_each_document_is_in_one_row_and_no_row_is_too_long(lengths: list[int]) -> None:
    rows = best_fit_decreasing(lengths, 32)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= 32 for row in rows)


@settings(deadline=None)
@given(LENGTHS)
def test_it_is_best_fit_decreasing(lengths: list[int]) -> None:
    """Against the textbook's loop over all rows."""
    rooms: list[int] = []
    for size in sorted(lengths, reverse=True):
        fitting = [place for place, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= size
        else:
            rooms.append(32 - size)
    found = best_fit_decreasing(lengths, 32)
    assert Counter(32 - sum(lengths[place] for place in row) for row in found) == Counter(rooms)


def test_a_document_longer_than_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="33 tokens"):
        best_fit_decreasing([33], 32)


def document(length: int, seed: int) -> Document:
    random = np.random.default_rng(seed)
    return Document(f"d{seed}", random.integers(1, 9, length).astype(np.int32), random.random(length) < 0.5)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_batch_holds_every_token_and_no_label_across_documents(shape: list[list[int]]) -> None:
    rows = [[document(length, seed * 7 + length) for length in row] for seed, row in enumerate(shape)]
    batch = collate(rows, pad=0)
    assert batch.tokens == sum(map(sum, shape))
    for number, row in enumerate(rows):
        own = batch.documents[number] >= 0
        assert batch.input_ids[number][own].tolist() == np.concatenate([one.ids for one in row]).tolist()
        expected = [int(one.ids[t]) if t and one.supervised[t] else IGNORED for one in row for t in range(len(one.ids))]
        assert batch.labels[number][own].tolist() == expected
        assert batch.position_ids[number][own].tolist() == [t for one in row for t in range(len(one.ids))]
        assert (batch.labels[number][~own] == IGNORED).all()
    lengths = np.diff(batch.cu_seqlens())
    assert lengths.sum() == batch.input_ids.size
    seen = batch.mask().sum()
    padding = sum(n * (n + 1) // 2 for n in (batch.documents < 0).sum(axis=1).tolist())
    assert seen == sum(n * (n + 1) // 2 for n in lengths.tolist())
    assert padding <= seen


def order(size: int, seed: int = 3, **more: Any) -> Order:
    random = np.random.default_rng(size)
    keys = random.integers(0, 2**63, size).astype(np.uint64)
    sources = more.pop("sources", np.zeros(size, np.int32))
    return Order(keys, random.integers(1, 20, size), sources, seed=seed, **more)


@given(st.integers(1, 200), st.integers(0, 4), st.sampled_from([None, 32]))
@settings(deadline=None)
def test_every_epoch_is_a_permutation(size: int, epoch: int, capacity: int | None) -> None:
    rows = order(size, capacity=capacity).epoch(epoch)
    assert sorted(place for row in rows for place in row) == list(range(size))


def test_epochs_and_seeds_differ_and_a_step_is_found_without_those_before_it() -> None:
    one, again = order(300, capacity=32), order(300, capacity=32)
    assert one.epoch(0) != one.epoch(1) != order(300, seed=4, capacity=32).epoch(1)
    later = again.row(one.epoch_end(2) + 5)
    assert later == (3, one.epoch(3)[5])


def test_the_order_does_not_follow_the_order_of_reading() -> None:
    keys = np.arange(1, 101, dtype=np.uint64) * np.uint64(2**50 + 1)
    lengths = np.ones(100, np.int64)
    back = np.arange(100)[::-1]
    one = Order(keys, lengths, np.zeros(100, np.int32), seed=1)
    other = Order(keys[back].copy(), lengths, np.zeros(100, np.int32), seed=1)
    assert [keys[row[0]] for row in one.epoch(2)] == [keys[back][row[0]] for row in other.epoch(2)]


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 500))
def test_shares_are_exact_and_spread(weights: list[float], total: int) -> None:
    counts = shares(weights, total)
    assert sum(counts) == total
    assert all(abs(n - w / sum(weights) * total) < 1 for n, w in zip(counts, weights, strict=True))
    drawn = spread(counts)
    for source, count in enumerate(counts):
        so_far = np.cumsum(drawn == source)
        expected = np.arange(1, total + 1) * count / max(total, 1)
        assert np.abs(so_far - expected).max(initial=0) <= len(weights) / 2 + 0.5


def test_a_mixture_keeps_its_shares_and_goes_through_each_source() -> None:
    sources = np.repeat([0, 1], [90, 10]).astype(np.int32)
    mixed = order(100, sources=sources, weights=[1, 1])
    drawn = [row[0] for epoch in range(4) for row in mixed.epoch(epoch)]
    counts = Counter(drawn)
    assert sum(n for place, n in counts.items() if place >= 90) == 200
    assert {counts[place] for place in range(90, 100)} == {20}
    assert {counts[place] for place in range(90)} <= {2, 3}

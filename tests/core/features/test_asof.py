"""The point-in-time join against a loop that looks at every pair of label and feature row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.core.errors import UserError
from llmops.core.features import asof
from llmops.core.features.asof import FeatureRows, join

US = pa.timestamp("us", tz="UTC")


def naive(labels: list[dict[str, Any]], features: list[dict[str, Any]], lookback: int | None) -> list[Any]:
    """The value of each label, found by looking at everything."""
    found = []
    for label in labels:
        best: tuple[int, int] | None = None
        for place, row in enumerate(features):
            if row["t"] is None or row["t"] > label["t"] or (row["t"] < label["t"] - lookback if lookback else False):
                continue
            if any(row[key] is None or row[key] != label[key] for key in ("k", "n")):
                continue
            if best is None or (row["t"], place) >= best:
                best = (row["t"], place)
        found.append(None if best is None else features[best[1]]["x"])
    return found


def arrow(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([("k", pa.string()), ("n", pa.int32()), ("t", US), ("x", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def joined(labels: list[dict[str, Any]], features: list[dict[str, Any]], lookback: int | None, batch: int) -> list[Any]:
    table = arrow(features)
    rows = FeatureRows(table.to_batches(max_chunksize=batch), table.schema, ("k", "n"), "t", ("x",))
    reach = timedelta(microseconds=lookback) if lookback else None
    found: list[Any] = join(arrow(labels), ["k", "n"], "t", rows, lookback=reach)["x"].to_pylist()
    return found


KEYS = {"k": st.sampled_from(["a", "b", "c", None]), "n": st.sampled_from([0, 1, 7, None])}
TIMES = st.integers(-4, 12) | st.sampled_from([-(10**15), 10**15])
LABELS = st.lists(st.fixed_dictionaries({**KEYS, "t": TIMES}), max_size=12)
FEATURES = st.lists(st.fixed_dictionaries({**KEYS, "t": TIMES | st.none(), "x": st.integers(0, 99)}), max_size=30)


@settings(deadline=None, max_examples=300)
@given(LABELS, FEATURES, st.none() | st.integers(1, 8), st.integers(1, 9))
def test_it_equals_the_loop(
    labels: list[dict[str, Any]], features: list[dict[str, Any]], lookback: int | None, batch: int
) -> None:
    assert joined(labels, features, lookback, batch) == naive(labels, features, lookback)


@settings(deadline=None)
@given(LABELS, FEATURES, st.none() | st.integers(1, 8))
def test_it_equals_the_loop_where_key_and_time_do_not_fit_one_number(
    labels: list[dict[str, Any]], features: list[dict[str, Any]], lookback: int | None
) -> None:
    far = [{"k": "a", "n": 0, "t": sign * (2**62 - 1)} for sign in (-1, 1)]

    assert joined([*labels, *far], features, lookback, 7)[: len(labels)] == naive(labels, features, lookback)


def test_small_batches_and_compaction_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    features = [
        {"k": f"k{k}", "n": 0, "t": t, "x": x}
        for x, (k, t) in enumerate(zip(generator.integers(0, 5, 3000), range(3000), strict=True))
    ]
    labels = [{"k": f"k{k}", "n": 0, "t": t} for k, t in zip([0, 1, 2, 3, 4, 9] * 3, range(0, 3600, 200), strict=True)]
    monkeypatch.setattr(asof, "BATCH_ROWS", 16)

    assert joined(labels, features, None, 10) == naive(labels, features, None)


def moments(values: list[int], unit: str, zone: str | None = "UTC") -> pa.Array:
    return pa.array(values).cast(pa.timestamp(unit, tz=zone))


def one(label: pa.Array, feature: pa.Array) -> Any:
    features = pa.table({"k": ["a"], "t": feature, "x": [1]})
    rows = FeatureRows(features.to_batches(), features.schema, ("k",), "t", ("x",))
    return join(pa.table({"k": ["a"], "t": label}), ["k"], "t", rows)["x"].to_pylist()[0]


def test_nanoseconds_are_rounded_so_that_nothing_leaks() -> None:
    assert one(moments([1500], "ns"), moments([1600], "ns")) is None
    assert one(moments([1999], "ns"), moments([1001], "ns")) is None  # within one microsecond: never known to be before
    assert one(moments([2000], "ns"), moments([1600], "ns")) == 1
    assert one(moments([2], "us"), moments([2001], "ns")) is None


def test_zones_are_instants() -> None:
    noon = datetime(2026, 3, 29, 12, tzinfo=UTC)
    label = pa.array([noon]).cast(pa.timestamp("us", tz="Europe/Berlin"))

    assert one(label, pa.array([noon]).cast(pa.timestamp("ms", tz="America/New_York"))) == 1
    later = pa.array([noon + timedelta(milliseconds=1)]).cast(pa.timestamp("ms", tz="America/New_York"))
    assert one(label, later) is None


def test_what_cannot_be_joined_is_told() -> None:
    good = moments([1], "us")

    with pytest.raises(UserError, match="have no zone"):
        one(good, moments([1], "us", None))
    with pytest.raises(UserError, match="holds no times"):
        one(good, pa.array([1]))
    with pytest.raises(UserError, match="1 labels have no `t`"):
        one(pa.array([None], US), good)
    features = pa.table({"k": [1], "t": good, "x": [1]})
    rows = FeatureRows(features.to_batches(), features.schema, ("k",), "t", ("x",))
    with pytest.raises(UserError, match="is int64 on one side and string"):
        join(pa.table({"k": ["a"], "t": good}), ["k"], "t", rows)
    with pytest.raises(UserError, match="no column `who`"):
        join(pa.table({"k": [1], "t": good}), ["who"], "t", rows)


def test_no_labels_and_no_features_are_fine() -> None:
    none = pa.table({"k": pa.array([], pa.string()), "t": pa.array([], US)})
    features = pa.table({"k": ["a"], "t": moments([1], "us"), "x": [1.5]})
    rows = FeatureRows(features.to_batches(), features.schema, ("k",), "t", ("x",))
    empty = FeatureRows([], features.schema, ("k",), "t", ("x",))

    assert join(none, ["k"], "t", rows).num_rows == 0
    assert join(none, ["k"], "t", rows).schema.field("x").type == pa.float64()
    assert join(features, ["k"], "t", empty)["x"].to_pylist() == [None]

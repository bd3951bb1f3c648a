"""The generated world, and that nobody learns what was not known yet."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.support.transactions import WORLD, prepared

from llmops.core.errors import UserError
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.finetune.classic.data import mature, parse_month, prepare, sample
from llmops.finetune.classic.features import FEATURES, customer_activity, merchant_risk
from llmops.finetune.classic.transactions import MATURITY, NEW_FRAUD, World, begin_of

TABLES = ["dev.fraud.transactions", "dev.fraud.labels", "dev.fraud.customer_activity", "dev.fraud.merchant_risk"]


def test_a_seed_is_a_world() -> None:
    assert WORLD.month(3).equals(World(WORLD.seed, 300, 60, 1500).month(3))
    assert not WORLD.month(3).equals(World(8, 300, 60, 1500).month(3))


def test_a_new_kind_of_fraud_comes_in_august() -> None:
    def small_frauds(month: int) -> int:
        rows = WORLD.month(month)
        found = pc.and_(rows["is_fraud"], pc.is_in(rows["category"], value_set=pa.array(["games", "gift_cards"])))
        return int(pc.sum(found).as_py() or 0)

    assert begin_of(7) == NEW_FRAUD
    assert [small_frauds(month) for month in range(7)] == [0] * 7
    assert min(small_frauds(month) for month in range(7, 12)) >= 20


def test_the_truth_arrives_late() -> None:
    rows = WORLD.month(0)
    delays = pc.subtract(rows["known_at"], rows["event_time"]).cast(pa.int64()).to_numpy() / 86_400_000_000
    reported = rows["reported"].to_numpy(zero_copy_only=False)

    assert (delays <= MATURITY.days).all()
    assert (delays[~reported] == MATURITY.days).all()
    assert 5 < np.median(delays[reported]) < 20
    fraud = rows["is_fraud"].to_numpy(zero_copy_only=False)
    assert not reported[~fraud].any()
    assert fraud[~reported].sum() <= 0.2 * fraud.sum()


def test_activity_is_what_a_loop_counts() -> None:
    history = WORLD.month(0).slice(0, 400)
    rows = {(row["customer_id"], row["last_seen"]): row for row in customer_activity(history).to_pylist()}
    past = history.to_pylist()

    assert len(rows) == len({(row["customer_id"], row["event_time"]) for row in past})
    for one in past[::20]:
        mine = [
            row for row in past if row["customer_id"] == one["customer_id"] and row["event_time"] <= one["event_time"]
        ]
        hour = [row for row in mine if row["event_time"] >= one["event_time"] - timedelta(hours=1)]
        found = rows[one["customer_id"], one["event_time"]]
        assert found["count_1h"] == len(hour)
        assert found["count_30d"] == len(mine)
        assert found["merchants_30d"] == len({row["merchant_id"] for row in mine})
        assert found["mean_30d"] == pytest.approx(np.mean([row["amount"] for row in mine]))
        assert found["event_time"] > one["event_time"], "a transaction does not know of itself"


def test_merchant_risk_knows_no_later_report() -> None:
    history = pa.concat_tables([WORLD.month(0), WORLD.month(1)])
    rows = merchant_risk(history, begin_of(0), begin_of(2))
    later = pc.greater(history["known_at"], pa.scalar(begin_of(1)))
    unknown = pc.if_else(later, False, history["reported"])
    place = history.column_names.index("reported")

    told = merchant_risk(history.set_column(place, "reported", unknown), begin_of(0), begin_of(1))

    before = rows.filter(pc.less_equal(rows["event_time"], pa.scalar(begin_of(1))))
    assert before.equals(told)
    assert rows["fraud_rate"].to_numpy().max() > 0


def test_months_come_once_whoever_asks(august: StateConfig, tmp_path: Path) -> None:
    lake = Lake(StateConfig(dir=tmp_path / "state"))
    for month in (2, 1, 7, 7):
        prepare(lake, "dev", WORLD, begin_of(month))

    assert prepare(lake, "dev", WORLD, begin_of(7)) == dict.fromkeys(TABLES, 0)
    for table in TABLES:
        ours, theirs = (one.dataset(table)[0].to_table() for one in (lake, Lake(august)))
        order = [(name, "ascending") for name in lake.spec(table).primary_key]
        assert ours.sort_by(order).equals(theirs.sort_by(order)), table
    with pytest.raises(UserError, match="not in the generated year"):
        prepare(lake, "dev", WORLD, begin_of(7) + timedelta(days=3))


@pytest.mark.kill
def test_a_killed_preparation_is_completed(august: StateConfig, tmp_path: Path) -> None:
    chance = random.Random(5)
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        process = context.Process(target=prepared, args=(tmp_path,))
        process.start()
        deadline = time.monotonic() + 60
        while not (tmp_path / "lake" / "dev").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.5))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    lake = Lake(StateConfig(dir=tmp_path))
    prepare(lake, "dev", WORLD, begin_of(7))
    for table in TABLES:
        assert lake.dataset(table)[0].count_rows() == Lake(august).dataset(table)[0].count_rows(), table


def test_only_what_is_known_is_sampled(august: StateConfig) -> None:
    lake, today = Lake(august), begin_of(7)
    found = sample(lake, "dev", FEATURES, begin_of(3), mature(today), today=today)

    moments = found.table["event_time"].to_pylist()
    assert max(moments) < today - MATURITY
    assert min(moments) >= begin_of(3)
    assert moments == sorted(moments)
    assert {one.table for one in found.read} == set(TABLES)
    assert all(
        last is None or last < at for last, at in zip(found.table["last_seen"].to_pylist(), moments, strict=True)
    )
    with pytest.raises(UserError, match="are not all known"):
        sample(lake, "dev", FEATURES, begin_of(3), today, today=today)
    with pytest.raises(UserError, match="is no month"):
        parse_month("August")

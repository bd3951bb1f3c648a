"""The same features in training and in serving."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.support.features import CUSTOMERS, day, row

from llmops.core.errors import NotFoundError, UserError
from llmops.core.features import FeatureSet, FeatureStore, FeatureTable, OnDemand, OnlineStore, open_online, publish
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.core.tables import Column

US = pa.timestamp("us", tz="UTC")
SHOPS = FeatureTable(
    "fraud.shops",
    keys=(Column("shop", "long"), Column("country")),
    features=(Column("risk", "double"), Column("opened", "timestamp"), Column("online", "boolean")),
)
FUNCTIONS = '''
"""Ratios."""
import numpy as np

def ratio(amount, spent):
    return amount / np.where(spent > 0, spent, np.nan)

def weekday(event_time):
    return (event_time.astype("datetime64[D]").astype(int) + 3) % 7

def wrong(amount):
    return amount[:1]
'''
REQUEST = (Column("customer_id"), Column("merchant", "long"), Column("country"), Column("amount", "double"))


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture
def features(functions: Path) -> FeatureSet:
    return FeatureSet(
        (*REQUEST, Column("event_time", "timestamp")),
        (
            CUSTOMERS.lookup("spent", "visits", "since", lookback=timedelta(days=30)),
            SHOPS.lookup(keys=("merchant", "country"), prefix="shop_"),
        ),
        (
            OnDemand(Column("ratio", "double"), "ratio", ("amount", "spent")),
            OnDemand(Column("weekday", "int"), "weekday", ("event_time",)),
        ),
        functions,
    )


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    found = FeatureStore(Lake(StateConfig(dir=tmp_path / "state")))
    found.create(CUSTOMERS)
    found.create(SHOPS)
    generator = np.random.default_rng(1)
    found.write(
        CUSTOMERS,
        [
            row(f"c{number}", float(moment), spent=None if moment == 3 else 0.1 * number + moment, visits=number)
            for number in range(9)
            for moment in generator.choice(20, 4, replace=False)
        ],
    )
    found.write(
        SHOPS,
        [
            {
                "shop": shop, "country": country, "event_time": day(shop), "risk": 0.1 / 3 * shop,
                "opened": day(-100 * shop), "online": bool(shop % 2),
            }
            for shop in range(5)
            for country in ("de", "fr")
        ],
    )  # fmt: skip
    return found


@pytest.fixture
def online(store: FeatureStore, tmp_path: Path) -> Iterator[OnlineStore]:
    found = open_online(StateConfig(dir=tmp_path / "state"))
    publish(store, CUSTOMERS, found)
    publish(store, SHOPS, found)
    yield found
    found.close()


def asked(moment: float = 40) -> pa.Table:
    rows = [
        {"customer_id": f"c{number}" if number else None, "merchant": number % 6, "amount": 10.0 * number,
         "country": "de" if number % 2 else "fr", "event_time": day(moment)}
        for number in range(12)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=pa.schema([("customer_id", pa.string()), ("merchant", pa.int32()),
        ("country", pa.string()), ("amount", pa.float64()), ("event_time", US)]))  # fmt: skip


@pytest.mark.parametrize("moment", [25, 40])
def test_training_and_serving_see_the_same(
    features: FeatureSet, store: FeatureStore, online: OnlineStore, moment: float
) -> None:
    trained = features.training_set(asked(moment), store)
    served = features.resolve(asked(moment), online)

    assert served.equals(trained.table)
    one = features.resolve(asked(moment).slice(1, 1), online)  # alone, its columns may be all null
    assert one.equals(served.slice(1, 1))
    assert served["shop_risk"].null_count < len(served)
    assert served["spent"].null_count not in (0, len(served))
    assert [str(one) for one in trained.read] == ["dev.fraud.customers@1", "dev.fraud.shops@1"]


def test_a_packed_set_is_the_same_set(
    features: FeatureSet, functions: Path, store: FeatureStore, online: OnlineStore
) -> None:
    import orjson

    packed = FeatureSet.from_json(orjson.loads(orjson.dumps(features.as_json())), functions)

    assert packed == features
    assert packed.resolve(asked(), online).equals(features.resolve(asked(), online))


def test_what_the_caller_gives_counts(features: FeatureSet, online: OnlineStore) -> None:
    given = asked().append_column("spent", pa.array([7] * 12)).append_column("ratio", pa.array([99] * 12))

    found = features.resolve(given, online)

    assert found["spent"].to_pylist() == [7.0] * 12
    assert found["ratio"].to_pylist()[:2] == [0.0, 10 / 7], "what is computed is computed"
    assert found.column_names == [column.name for column in features.columns]
    everything = found.drop_columns(["ratio", "weekday"])
    assert features.resolve(everything, None).equals(found), "with every feature given no store is needed"


def test_old_tables_can_be_joined_again(features: FeatureSet, store: FeatureStore) -> None:
    first = features.training_set(asked(), store)
    store.write(CUSTOMERS, [row("c1", 39, 1000.0)])
    second = features.training_set(asked(), store)
    again = features.training_set(asked(), store, at={one.table: one.version for one in first.read})

    assert second.digest != first.digest
    assert again == first
    assert again.digest == first.digest
    with pytest.raises(NotFoundError, match="has no version 99"):
        features.training_set(asked(), store, at={"dev.fraud.customers": 99})


def test_two_versions_of_functions_live_in_one_process(
    features: FeatureSet, tmp_path: Path, online: OnlineStore
) -> None:
    other = tmp_path / "other.py"
    other.write_text(FUNCTIONS.replace("amount / ", "2 * amount / "))
    twice = FeatureSet.from_json(features.as_json(), other)

    one, two = features.resolve(asked(), online)["ratio"], twice.resolve(asked(), online)["ratio"]

    assert [2 * value if value else value for value in one.to_pylist()] == two.to_pylist()


def test_what_is_missing_or_wrong_is_told(features: FeatureSet, functions: Path, online: OnlineStore) -> None:
    with pytest.raises(UserError, match="the column `amount` is missing"):
        features.resolve(asked().drop_columns(["amount"]), online)
    with pytest.raises(UserError, match="lacks spent, visits"):
        features.resolve(asked(), None)
    with pytest.raises(UserError, match="`amount` does not fit double"):
        features.resolve(asked().set_column(3, "amount", pa.array(["much"] * 12)), online)
    for function, reason in (("wrong", "gives shape"), ("absent", "no on-demand function")):
        broken = FeatureSet(REQUEST, (), (OnDemand(Column("x", "double"), function, ("amount",)),), functions)
        with pytest.raises(UserError, match=reason):
            broken.resolve(asked(), online)
    with pytest.raises(UserError, match="is a key of"):
        FeatureSet((), (CUSTOMERS.lookup(),))
    with pytest.raises(UserError, match="declared twice"):
        FeatureSet((*REQUEST, Column("spent")), (CUSTOMERS.lookup(),))

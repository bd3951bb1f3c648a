from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests.support.features import CUSTOMERS, day, row

from llmops.core import delta
from llmops.core.errors import ConflictError, IntegrityError, NotFoundError, UserError
from llmops.core.features import FeatureStore, FeatureTable
from llmops.core.files import exclusive_lock
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.core.tables import Column

NAME = "dev.fraud.customers"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    found = FeatureStore(Lake(StateConfig(dir=tmp_path / "state")))
    found.create(CUSTOMERS)
    return found


def held(store: FeatureStore, version: int | None = None) -> list[dict[str, object]]:
    rows = store.read(CUSTOMERS, version)[0].to_table().to_pylist()
    return sorted(rows, key=lambda found: (found["customer_id"], found["event_time"]))


def test_a_table_is_described_where_it_lies(store: FeatureStore) -> None:
    other = FeatureStore(Lake(StateConfig(dir=Path(store.lake.root).parent)))

    assert other.describe("fraud.customers").lookup() == CUSTOMERS.lookup()
    assert other.describe(NAME).description == "what a customer did so far"
    assert other.tables() == [NAME]
    assert FeatureStore(other.lake, "prod").tables() == []
    aging = FeatureTable("fraud.aging", (Column("a", "long"),), (Column("x", "double"),), ttl=timedelta(days=3))
    store.create(aging)
    assert store.describe("fraud.aging").ttl == timedelta(days=3)


def test_a_key_and_moment_has_one_row(store: FeatureStore) -> None:
    first = store.write(CUSTOMERS, [row("a", 0, 1.0), row("b", 0, 2.0)])
    store.write(CUSTOMERS, [row("a", 0, 5.0), row("a", 1, 6.0)])

    assert [(one["customer_id"], one["spent"]) for one in held(store)] == [("a", 5.0), ("a", 6.0), ("b", 2.0)]
    assert [one["spent"] for one in held(store, first)] == [1.0, 2.0]
    with pytest.raises(IntegrityError, match="same key and moment"):
        store.write(CUSTOMERS, [row("a", 2), row("a", 2)])


def test_a_repeated_write_does_nothing(store: FeatureStore) -> None:
    assert store.write(CUSTOMERS, [row("a", 0)], ("backfill", 3)) is not None
    assert store.write(CUSTOMERS, [row("a", 0, 9.0)], ("backfill", 3)) is None
    assert [one["spent"] for one in held(store)] == [1.0]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"spent": "much"}, "spent"),
        ({"typo": 1}, "typo"),
        ({"customer_id": None}, "required"),
        ({"event_time": datetime(2025, 1, 1)}, "zone"),  # noqa: DTZ001 - that is the point
        ({"spent": float("inf")}, "infinite"),
    ],
)
def test_a_row_that_does_not_fit_writes_nothing(store: FeatureStore, wrong: dict[str, object], reason: str) -> None:
    rows = [row("a", 0), {**row("b", 0), **wrong}]

    with pytest.raises(IntegrityError, match=reason):
        store.write(CUSTOMERS, rows)
    with pytest.raises(IntegrityError, match=reason):
        store.write(CUSTOMERS, pa.table({name: pa.array([rows[1].get(name)]) for name in rows[1]}))
    assert held(store) == []


def test_arrow_columns_may_be_narrower_and_missing(store: FeatureStore) -> None:
    moment = pa.array([day(0)]).cast(pa.timestamp("ms", tz="Europe/Berlin"))
    store.write(CUSTOMERS, pa.table({"customer_id": ["a"], "event_time": moment, "spent": [float("nan")]}))

    (found,) = held(store)

    assert found["event_time"] == day(0)
    assert found["spent"] is None, "not a number is no value"
    assert found["visits"] is None


def test_a_declaration_may_grow_and_not_turn(store: FeatureStore) -> None:
    store.write(CUSTOMERS, [row("a", 0)])
    grown = FeatureTable(
        CUSTOMERS.name, CUSTOMERS.keys, (*CUSTOMERS.features, Column("risk", "double", description="of a charge-back"))
    )
    store.create(grown)
    store.create(grown)
    store.write(grown, [row("a", 1, risk=0.5)])

    assert [one["risk"] for one in held(store)] == [None, 0.5]
    assert store.describe(NAME).features[-1].description == "of a charge-back"
    for turned in (
        FeatureTable(CUSTOMERS.name, CUSTOMERS.keys, (Column("spent", "long"), *grown.features[1:])),
        FeatureTable(CUSTOMERS.name, (*CUSTOMERS.keys, Column("shop")), grown.features),
        CUSTOMERS,
    ):
        with pytest.raises(IntegrityError, match="another"):
            store.create(turned)
    assert len(held(store)) == 2


def test_writers_wait_for_each_other_and_are_told(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Path(store.lake.root) / ".locks" / f"{NAME}.lock"
    others = [FeatureStore(Lake(StateConfig(dir=Path(store.lake.root).parent))) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: others[number].write(CUSTOMERS, [row("a", number), row("b", 0)]), range(4)))
    assert len(held(store)) == 5

    monkeypatch.setattr(delta, "WRITER_WAIT_S", 0.05)
    with exclusive_lock(lock, what="x"), pytest.raises(ConflictError, match="already writing"):
        store.write(CUSTOMERS, [row("a", 0)])


def test_what_is_no_feature_table_is_told(store: FeatureStore) -> None:
    with pytest.raises(NotFoundError, match="no table") as error:
        store.describe("fraud.customer")
    assert error.value.hint == "did you mean `dev.fraud.customers`?"
    with pytest.raises(UserError, match="not a feature table"):
        store.describe("dev.serving.feedback")
    with pytest.raises(UserError, match="keeps"):
        store.create(FeatureTable("fraud.feedback", CUSTOMERS.keys, CUSTOMERS.features))
    with pytest.raises(UserError, match="cannot be double"):
        FeatureTable("fraud.x", (Column("k", "double"),), CUSTOMERS.features)
    with pytest.raises(NotFoundError, match="no feature `spend`"):
        CUSTOMERS.lookup("spend")
    with pytest.raises(UserError, match="declared twice"):
        FeatureTable("fraud.x", CUSTOMERS.keys, (Column("a", "double"), Column("a", "double"))).spec("dev")
    assert day(0).tzinfo is UTC

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.lake import Lake
from llmops.core.snapshot import Wanted, origin_of, snapshot
from llmops.core.state import StateConfig
from llmops.core.tables import Column, TableSpec

SOURCE, TARGET = "prod.fraud.payments", "dev.fraud.payments_sample"
SPEC = TableSpec(
    "payments",
    (
        Column("payment_id", required=True),
        Column("at", "timestamp", required=True),
        Column("email"),
        Column("amount", "double"),
        Column("mail_ok", "boolean"),
    ),
    primary_key=("payment_id",),
    description="what was paid",
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(StateConfig(dir=tmp_path / "state"))
    found.declare(SOURCE, SPEC)
    found.append(SOURCE, [payment(number) for number in range(200)])
    return found


def payment(number: int) -> dict[str, Any]:
    return {
        "payment_id": f"p{number:03d}",
        "at": f"2025-03-{number % 28 + 1:02d}T00:00:00Z",
        "email": f"person{number % 7}@example.org" if number % 5 else None,
        "amount": float(number),
        "mail_ok": number % 2 == 0,
    }


def take(lake: Lake, wanted: Wanted, target: str = TARGET, **more: Any) -> Any:
    return snapshot(lake, SOURCE, target, wanted, key_file=Path(lake.root).parent / "snapshot.key", **more)


def ids(lake: Lake, table: str = TARGET) -> list[str]:
    return sorted(row["payment_id"] for row in lake.rows(table))


def test_the_same_seed_takes_the_same_rows_whatever_their_order(lake: Lake, tmp_path: Path) -> None:
    other = Lake(StateConfig(dir=tmp_path / "other"))
    other.declare(SOURCE, SPEC)
    other.append(SOURCE, [payment(number) for number in reversed(range(200))])

    take(lake, Wanted(rows=20, seed=3))
    take(other, Wanted(rows=20, seed=3))
    first = ids(lake)
    take(lake, Wanted(rows=20, seed=4))

    assert len(first) == 20
    assert first == ids(other)
    assert first != ids(lake)
    take(lake, Wanted(rows=40, seed=3))
    assert set(first) < set(ids(lake)), "more rows are the same rows and others"


def test_it_is_made_once_and_says_where_it_is_from(lake: Lake) -> None:
    wanted = Wanted(where="amount >= 100 AND mail_ok", rows=30)
    first = take(lake, wanted)
    again = take(lake, wanted)
    origin = origin_of(lake, TARGET)

    assert (first.made, again.made) == (True, False)
    assert (first.rows, first.of_rows) == (30, 50)
    assert first.target_version == again.target_version
    assert origin is not None
    assert (origin["source"], origin["version"], origin["where"]) == (SOURCE, 1, wanted.where)
    lake.append(SOURCE, [payment(200)])
    assert take(lake, wanted).made, "another version is another snapshot"
    assert all(row["amount"] >= 100 for row in lake.rows(TARGET))
    assert origin_of(lake, SOURCE) is None


def test_people_are_dropped_or_hashed(lake: Lake) -> None:
    take(lake, Wanted(hashed=("email",), dropped=("amount",)))

    rows = lake.rows(TARGET)
    seen = {row["payment_id"]: row["email"] for row in rows}

    assert set(rows[0]) == {"payment_id", "at", "email", "mail_ok"}
    assert seen["p000"] is None
    assert seen["p001"] == seen["p008"] != seen["p002"]
    assert "example" not in str(rows)
    key = Path(lake.root).parent / "snapshot.key"
    assert key.stat().st_mode & 0o077 == 0
    take(lake, Wanted(hashed=("email", "payment_id")), "dev.fraud.other")
    assert {row["email"] for row in lake.rows("dev.fraud.other")} == set(seen.values()), "hashes join"
    assert ids(lake, "dev.fraud.other")[0] != "p000"


def test_a_plan_makes_nothing(lake: Lake) -> None:
    plan = take(lake, Wanted(rows=5, hashed=("email",)), plan=True)

    assert (plan.rows, plan.of_rows, plan.made, plan.target_version) == (5, 200, False, None)
    assert lake.tables() == [SOURCE]
    assert not (Path(lake.root).parent / "snapshot.key").exists()


def test_a_snapshot_that_was_interrupted_is_completed(lake: Lake) -> None:
    lake.declare(TARGET, TableSpec("payments_sample", SPEC.columns, SPEC.primary_key, description=SPEC.description))

    assert take(lake, Wanted(rows=5)).made
    assert len(ids(lake)) == 5


def test_what_cannot_be_taken_is_told(lake: Lake) -> None:
    with pytest.raises(NotFoundError, match="no column `mail`"):
        take(lake, Wanted(dropped=("mail",)))
    with pytest.raises(UserError, match="the query failed"):
        take(lake, Wanted(where="amount > nothing"))
    with pytest.raises(UserError, match="the query failed"):
        take(lake, Wanted(where="amount > (SELECT count(*) FROM read_csv('/etc/passwd'))"))
    with pytest.raises(UserError, match="not production"):
        take(lake, Wanted(), "prod.fraud.copy")
    with pytest.raises(UserError, match="keeps"):
        take(lake, Wanted(), "dev.serving.feedback")
    with pytest.raises(NotFoundError, match="no table"):
        snapshot(lake, "prod.fraud.payment", TARGET, Wanted(), key_file=Path("unused"))
    lake.declare("dev.fraud.own", TableSpec("own", SPEC.columns, SPEC.primary_key))
    lake.append("dev.fraud.own", [payment(1)])
    with pytest.raises(UserError, match="a table of its own"):
        take(lake, Wanted(), "dev.fraud.own")
    take(lake, Wanted())
    with pytest.raises(IntegrityError, match="another"):
        take(lake, Wanted(dropped=("amount",)))
    assert len(ids(lake)) == 200

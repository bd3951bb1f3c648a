"""A small feature table with its rows, and a process that publishes until somebody kills it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmops.core.features import FeatureStore, FeatureTable, open_online, publish
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.core.tables import Column

START = datetime(2025, 1, 1, tzinfo=UTC)
CUSTOMERS = FeatureTable(
    "fraud.customers",
    keys=(Column("customer_id"),),
    features=(Column("spent", "double"), Column("visits", "int"), Column("home"), Column("since", "date")),
    description="what a customer did so far",
)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def row(customer: str, number: float, spent: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {"customer_id": customer, "event_time": day(number), "spent": spent, **more}


def publish_forever(root: Path, rows: int) -> None:
    """Write a new row of each customer and publish it, again and again."""
    state = StateConfig(dir=root)
    store, online = FeatureStore(Lake(state)), open_online(state)
    round_ = (store.lake.version(store.create(CUSTOMERS)) or 0) + 1
    while True:
        store.write(CUSTOMERS, [row(f"c{number}", round_ / 1000, float(round_)) for number in range(rows)])
        publish(store, CUSTOMERS, online)
        round_ += 1

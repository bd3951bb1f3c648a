"""The fraud data in the lake: month after month of transactions, labels as they become known, and features of both.

A month is written once, whoever asks for it how often. `sample` gives what a model may honestly learn from at a moment:
transactions old enough for their truth to be known, with the features as of each one's own moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmops.core.delta import Transaction
from llmops.core.errors import UserError
from llmops.core.features import FeatureSet, FeatureStore, TableVersion, TrainingSet
from llmops.core.features.table import in_catalog
from llmops.core.lake import Lake
from llmops.core.tables import Column, TableSpec
from llmops.finetune.classic.features import CUSTOMER_ACTIVITY, MERCHANT_RISK, REQUEST, customer_activity, merchant_risk
from llmops.finetune.classic.transactions import MATURITY, MONTHS, World, begin_of

TRANSACTIONS = TableSpec(
    "transactions",
    (
        Column("transaction_id", required=True),
        *(Column(column.name, column.type, required=True) for column in REQUEST),
        Column("home", description="the customer's own country"),
    ),
    primary_key=("transaction_id",),
    description="generated card transactions",
)
LABELS = TableSpec(
    "labels",
    (
        Column("transaction_id", required=True),
        Column("is_fraud", "boolean", required=True),
        Column(
            "known_at", "timestamp", required=True, description="when the report came, or 45 days had passed without"
        ),
    ),
    primary_key=("transaction_id",),
    description="what became known of the transactions, and when",
)


@dataclass(frozen=True)
class Sample:
    """Labelled transactions with their features, and every table that they were read from."""

    training: TrainingSet
    read: tuple[TableVersion, ...]
    begin: datetime
    end: datetime

    @property
    def table(self) -> pa.Table:
        return self.training.table


def prepare(lake: Lake, catalog: str, world: World, today: datetime) -> dict[str, int]:
    """Bring the lake to the first of a month: all that happened and became known before; gives rows written a table.

    Safe to be killed at any point and run again: each table takes each month exactly once.

    Raises:
        UserError: `today` is no first of a month of the year that the world has.
    """
    months = _months(today)
    store = FeatureStore(lake, catalog)
    tables = {spec.asset: in_catalog(f"fraud.{spec.asset}", catalog) for spec in (TRANSACTIONS, LABELS)}
    lake.declare(tables["transactions"], TRANSACTIONS)
    lake.declare(tables["labels"], LABELS)
    written = dict.fromkeys([*tables.values(), store.create(CUSTOMER_ACTIVITY), store.create(MERCHANT_RISK)], 0)
    app = f"fraud:{world.seed}:{world.customers}:{world.merchants}:{world.a_month}"
    done = {table: lake.committed(table, [app])[app] for table in written}
    if min(done.values()) >= months - 1:
        return written
    history = pa.concat_tables([world.month(number) for number in range(months)])
    activity = customer_activity(history)
    for number in range(min(done.values()) + 1, months):
        for table, rows in _month(history, activity, number, written).items():
            mark = Transaction(app, number)
            if number > done[table] and lake.append_arrow(table, _fitted(lake, table, rows), [mark]) is not None:
                written[table] += len(rows)
    return written


def sample(
    lake: Lake, catalog: str, features: FeatureSet, begin: datetime, end: datetime, *, today: datetime
) -> Sample:
    """The transactions of a stretch of time whose truth is known, with their features.

    Raises:
        UserError: the stretch reaches into the time whose truth is not known yet, or holds no transaction.
    """
    if end > mature(today):
        hint = f"on {today:%F} the truth is known up to {mature(today):%F}"
        raise UserError(f"the labels of the time up to {end:%F} are not all known", hint=hint)
    names = [in_catalog(f"fraud.{asset}", catalog) for asset in ("transactions", "labels")]
    columns = ", ".join(f"t.{column.name}" for column in REQUEST)
    rows = lake.query_arrow(
        f"SELECT t.transaction_id, {columns}, l.is_fraud FROM {names[0]} t JOIN {names[1]} l USING (transaction_id) "  # noqa: S608 - names are checked
        "WHERE t.event_time >= $begin AND t.event_time < $end AND l.known_at <= $today "
        "ORDER BY t.event_time, t.transaction_id",
        {"begin": begin, "end": end, "today": today},
    )
    if not len(rows):
        raise UserError(f"no labelled transactions between {begin:%F} and {end:%F}", hint="prepare the data first")
    read = tuple(TableVersion(name, lake.version(name) or 0) for name in names)
    training = features.training_set(rows, FeatureStore(lake, catalog))
    return Sample(training, (*read, *training.read), begin, end)


def mature(today: datetime) -> datetime:
    """Up to when transactions are old enough that all of their truth is known."""
    return today - MATURITY


def parse_month(text: str) -> datetime:
    """The first moment of a month that is written `2025-08`.

    Raises:
        UserError: it is not.
    """
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise UserError(f"`{text}` is no month", hint="write it as 2025-08") from None


def _months(today: datetime) -> int:
    for number in range(1, MONTHS + 1):
        if begin_of(number) == today:
            return number
    raise UserError(
        f"{today:%F} is not in the generated year", hint=f"from {begin_of(1):%Y-%m} to {begin_of(MONTHS):%Y-%m}"
    )


def _month(history: pa.Table, activity: pa.Table, number: int, tables: dict[str, int]) -> dict[str, Any]:
    """What one month adds to each table: what happened in it, and what became known in it."""
    begin, end = begin_of(number), begin_of(number + 1)
    transactions, labels, of_customers, of_merchants = tables
    known = _between(history, "known_at", begin, end)
    return {
        transactions: _between(history, "event_time", begin, end).select([c.name for c in TRANSACTIONS.columns]),
        labels: known.rename_columns({"is_fraud": "truth", "reported": "is_fraud"}).select(
            [c.name for c in LABELS.columns]
        ),
        of_customers: _between(activity, "last_seen", begin, end),
        of_merchants: merchant_risk(history, begin, end - timedelta(seconds=1)),
    }


def _between(rows: pa.Table, column: str, begin: datetime, end: datetime) -> pa.Table:
    inside = pc.and_(pc.greater_equal(rows[column], pa.scalar(begin)), pc.less(rows[column], pa.scalar(end)))
    return rows.filter(inside)


def _fitted(lake: Lake, table: str, rows: pa.Table) -> pa.Table:
    schema = lake.spec(table).schema()
    return rows.select(schema.names).cast(schema)

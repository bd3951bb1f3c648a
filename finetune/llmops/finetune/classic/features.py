"""The feature tables of the fraud model, what is computed into them, and which of it the model takes.

A row of `fraud.customer_activity` says what was known of a customer right after one of their transactions; one of
`fraud.merchant_risk` what was known of a merchant on a Monday, from the reports that had arrived by then.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa

from llmops.core import lakesql
from llmops.core.features import FeatureSet, FeatureTable, OnDemand
from llmops.core.tables import Column

CUSTOMER_ACTIVITY = FeatureTable(
    "fraud.customer_activity",
    keys=(Column("customer_id"),),
    features=(
        Column("home", description="the customer's own country"),
        Column("last_seen", "timestamp", description="the last transaction"),
        Column("count_1h", "long", description="transactions in the hour up to it"),
        Column("count_7d", "long", description="in the 7 days up to it"),
        Column("count_30d", "long", description="in the 30 days up to it"),
        Column("mean_30d", "double", description="mean amount of those 30 days"),
        Column("max_30d", "double", description="largest amount of those 30 days"),
        Column("merchants_30d", "long", description="distinct merchants of those 30 days"),
    ),
    description="what a customer did, one row after each transaction",
)
MERCHANT_RISK = FeatureTable(
    "fraud.merchant_risk",
    keys=(Column("merchant_id"),),
    features=(
        Column("payments_90d", "long", description="transactions of the 90 days before"),
        Column("fraud_rate", "double", description="reported share of them, drawn to the overall share by 50 payments"),
    ),
    description="what was known of a merchant on a Monday, from the reports that had arrived by then",
)
REQUEST = (
    Column("customer_id"),
    Column("merchant_id"),
    Column("event_time", "timestamp"),
    Column("amount", "double"),
    Column("category"),
    Column("channel"),
    Column("country"),
    Column("device_age_days", "double"),
)
FEATURES = FeatureSet(
    REQUEST,
    (CUSTOMER_ACTIVITY.lookup(), MERCHANT_RISK.lookup()),
    (
        OnDemand(Column("amount_ratio", "double"), "amount_ratio", ("amount", "mean_30d")),
        OnDemand(Column("hour", "double"), "hour", ("event_time",)),
        OnDemand(Column("hours_since_last", "double"), "hours_since_last", ("event_time", "last_seen")),
        OnDemand(Column("abroad", "double"), "abroad", ("country", "home")),
    ),
    Path(__file__).with_name("functions.py"),
)
INPUTS = (
    "amount", "amount_ratio", "device_age_days", "hour", "hours_since_last", "abroad", "count_1h", "count_7d",
    "count_30d", "mean_30d", "max_30d", "merchants_30d", "fraud_rate", "payments_90d", "category", "channel",
)  # fmt: skip
"""What the trees see, in this order; keys and times they do not."""

_ACTIVITY = """
SELECT customer_id, event_time + INTERVAL 1 SECOND AS event_time, home, event_time AS last_seen,
  count(*) OVER (PARTITION BY customer_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
    AS count_1h,
  count(*) OVER (PARTITION BY customer_id ORDER BY event_time RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW)
    AS count_7d,
  count(*) OVER month AS count_30d,
  (sum(CAST(round(100 * amount) AS BIGINT)) OVER month)::DOUBLE / (100 * count(*) OVER month) AS mean_30d,
  max(amount) OVER month AS max_30d,
  len(list_distinct(list(merchant_id) OVER month)) AS merchants_30d
FROM dev.fraud.history
WINDOW month AS (PARTITION BY customer_id ORDER BY event_time RANGE BETWEEN INTERVAL 30 DAY PRECEDING AND CURRENT ROW)
QUALIFY row_number() OVER (PARTITION BY customer_id, event_time ORDER BY transaction_id) = 1
"""
_RISK = """
WITH mondays AS (
  SELECT unnest(generate_series($begin::TIMESTAMPTZ, $end::TIMESTAMPTZ, INTERVAL 1 DAY)) AS event_time
), known AS (
  SELECT m.event_time, h.merchant_id, count(*) AS payments,
    count(*) FILTER (WHERE h.reported AND h.known_at <= m.event_time) AS frauds
  FROM mondays m JOIN dev.fraud.history h
    ON h.event_time < m.event_time AND h.event_time >= m.event_time - INTERVAL 90 DAY
  WHERE dayofweek(m.event_time) = 1
  GROUP BY ALL
)
SELECT merchant_id, event_time, payments AS payments_90d,
  (frauds + 50 * overall) / (payments + 50) AS fraud_rate
FROM (SELECT *, sum(frauds) OVER (PARTITION BY event_time) / sum(payments) OVER (PARTITION BY event_time) AS overall
      FROM known)
ORDER BY event_time, merchant_id
"""


def customer_activity(history: pa.Table) -> pa.Table:
    """Rows of the table after every transaction of a history, by `event_time`."""
    return lakesql.select(_ACTIVITY, {"dev.fraud.history": (history, None)})


def merchant_risk(history: pa.Table, begin: datetime, end: datetime) -> pa.Table:
    """Rows of the table on every Monday from `begin` to `end`, without what was reported later than that."""
    return lakesql.select(_RISK, {"dev.fraud.history": (history, None)}, {"begin": begin, "end": end})

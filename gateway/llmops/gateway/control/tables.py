"""The gateway's tables in the own state: what a virtual key may use, and what was wrong."""

from __future__ import annotations

from sqlalchemy import JSON, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

from llmops.core.keys import METADATA as KEY_METADATA
from llmops.core.sql import Timestamp

METADATA = MetaData()
KEY_METADATA.tables["keys"].to_metadata(METADATA)

KEY_POLICIES = Table(
    "gateway_keys",
    METADATA,
    Column("key_id", String(32), ForeignKey("keys.key_id"), primary_key=True),
    Column("team", String(128)),
    Column("routes", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("budgets", JSON, nullable=False),
)

ALERTS = Table(
    "gateway_alerts",
    METADATA,
    Column("alert_id", String(36), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("subject", String(300), nullable=False),
    Column("message", Text, nullable=False),
    Column("opened_at", Timestamp, nullable=False),
    Column("ended_at", Timestamp),
    Column("delivered_at", Timestamp),
    Column("attempts", Integer, nullable=False),
    Column("delivery_error", Text, nullable=False),
    Index("ix_gateway_alerts_opened", "opened_at"),
)

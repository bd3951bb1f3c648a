"""The SQL tables of access: who was granted what, and who owns what.

The owner of an asset that has no row here is whoever created it.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, MetaData, String, Table

from llmops.core.sql import Timestamp

metadata = MetaData()

grants = Table(
    "grants",
    metadata,
    Column("securable", String(200), primary_key=True),
    Column("grantee", String(200), primary_key=True),
    Column("privilege", String(32), primary_key=True),
    Column("granted_at", Timestamp, nullable=False),
    Column("granted_by", String(200), nullable=False),
    Index("ix_grants_grantee", "grantee"),
)

owners = Table(
    "owners",
    metadata,
    Column("securable", String(200), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("since", Timestamp, nullable=False),
    Column("set_by", String(200), nullable=False),
)

"""The audit chain's SQL tables: the log itself, where it ends, and which actions are still open.

Knows columns and keys. The log's columns are those of Databricks' audit log, with the links of the chain; head and open
actions can be told from the log, and are kept so that nobody has to read it for them.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

log = Table(
    "audit_log",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("action_id", String(36), nullable=False),  # an intent and its outcome share it
    Column("phase", String(16), nullable=False),
    Column("event_time", String(27), nullable=False),  # ISO 8601, UTC: the text that was sealed, whatever the database
    Column("version", String(8), nullable=False),
    Column("audit_level", String(16), nullable=False),
    Column("account_id", String(16), nullable=False),  # which chain: a fingerprint of its key
    Column("org_id", String(64)),  # the catalog
    Column("source_ip_address", String(64)),
    Column("user_agent", String(200)),
    Column("session_id", String(36), nullable=False),
    Column("request_id", String(64)),
    Column("actor", String(200), nullable=False),
    Column("actor_kind", String(16), nullable=False),
    Column("actor_groups", Text, nullable=False),
    Column("service_name", String(32), nullable=False),
    Column("action_name", String(32), nullable=False),
    Column("about", String(300), nullable=False),
    Column("request_params", Text, nullable=False),
    Column("status_code", Integer),
    Column("error_message", Text),
    Column("result", Text),
    Column("evidence_id", String(64)),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),  # of all columns before it
    Index("ix_audit_log_about", "about", "seq"),
    Index("ix_audit_log_actor", "actor", "seq"),
)

head = Table(
    "audit_head",
    metadata,
    Column("head", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("account_id", String(16), nullable=False),
)

open_actions = Table(
    "audit_open",
    metadata,
    Column("action_id", String(36), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("session_id", String(36), nullable=False),
)

"""The tables of promotion: where each one stands, every step of it, approvals, and the policies they follow.

Knows columns and keys. Steps, approvals and policies are written once; a promotion's row is moved by compare-and-set on
its etag. All ids are UUIDv7 and rise within an asset, whatever the clock does (`sequence`).
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Table, Text

from llmops.core.sql import Timestamp
from llmops.registry.tables import metadata

_NAME = String(200)
_ID = String(36)
_ACTOR = String(200)

promotions = Table(
    "promotions",
    metadata,
    Column("promotion_id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("state", String(32), nullable=False),
    Column("step", Integer, nullable=False),  # which share of a canary
    Column("held_from", String(32)),
    Column("evidence_id", String(64)),  # the newest that the state rests on
    Column("etag", _ID, nullable=False),
    Column("policy", JSON, nullable=False),  # as it was when the promotion was started
    Column("started_at", Timestamp, nullable=False),
    Column("started_by", _ACTOR, nullable=False),
    Column("changed_at", Timestamp, nullable=False),
    Column("changed_by", _ACTOR, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], name="fk_promotions_version"),
    Index("ix_promotions_version", "name", "version", "promotion_id"),
)

steps = Table(
    "promotion_steps",
    metadata,
    Column("step_id", _ID, primary_key=True),  # also the etag that the step left
    Column("promotion_id", _ID, ForeignKey("promotions.promotion_id"), nullable=False),
    Column("name", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("before", String(32), nullable=False),
    Column("after", String(32), nullable=False),
    Column("step", Integer, nullable=False),
    Column("evidence", JSON, nullable=False),  # ids of the records it rests on
    Column("why", Text, nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("by", _ACTOR, nullable=False),
    Index("ix_promotion_steps", "name", "step_id"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", _ID, primary_key=True),
    Column("promotion_id", _ID, ForeignKey("promotions.promotion_id"), nullable=False),
    Column("name", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("approver_group", String(128), nullable=False),
    Column("decision", String(16), nullable=False),  # approve, deny, revoke
    Column("comment", Text, nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("by", _ACTOR, nullable=False),
    Index("ix_approvals_promotion", "promotion_id", "approval_id"),
    Index("ix_approvals_name", "name", "approval_id"),
)

policies = Table(
    "policies",
    metadata,
    Column("policy_id", _ID, primary_key=True),
    Column("scope", _NAME, nullable=False),  # a catalog, catalog.schema, or an asset's name
    Column("body", JSON),  # None: the scope has no policy of its own any more
    Column("at", Timestamp, nullable=False),
    Column("by", _ACTOR, nullable=False),
    Index("ix_policies_scope", "scope", "policy_id"),
)

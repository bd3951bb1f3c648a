"""The registry's SQL tables: assets, versions and what is written beside them, aliases of record, evidence, lineage.

Knows columns and keys. What the rows mean is said by `records`; the database's own guards stand in the migration.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)

from llmops.core.sql import Timestamp

metadata = MetaData()

_NAME = String(200)
_DIGEST = String(64)
_ID = String(36)
_ACTOR = String(200)
_NODE = String(500)

assets = Table(
    "assets",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("created_by", _ACTOR, nullable=False),
    Column("last_id", _ID),  # the newest id that `sequence` gave within this asset
    Column("mirrored", Boolean, nullable=False, server_default=true()),  # MLflow's copies are as the record
)

versions = Table(
    "versions",
    metadata,
    Column("name", _NAME, ForeignKey("assets.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", _DIGEST, nullable=False),
    Column("artifact_digest", _DIGEST),
    Column("files", JSON),  # [[path, size, sha256], ...]: what artifact_digest is the digest of
    Column("source", Text, nullable=False),
    Column("content", Text),  # a prompt's text
    Column("description", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("params", JSON, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("created_by", _ACTOR, nullable=False),
    UniqueConstraint("name", "digest", name="uq_versions_digest"),
)

evidence = Table(
    "evidence",
    metadata,
    Column("evidence_id", _DIGEST, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("gate", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("actor", _ACTOR, nullable=False),
    Column("ended", Timestamp, nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON; evidence_id is its SHA-256
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], name="fk_evidence_version"),
    Index("ix_evidence_version", "name", "version"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("etag", _ID, nullable=False),
    Column("evidence_id", _DIGEST, ForeignKey("evidence.evidence_id"), nullable=False),
    Column("moved_at", Timestamp, nullable=False),
    Column("moved_by", _ACTOR, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], name="fk_aliases_version"),
)

alias_moves = Table(
    "alias_moves",
    metadata,
    Column("move_id", _ID, primary_key=True),  # rises within an asset (`sequence`); also the etag that the move left
    Column("name", _NAME, nullable=False),
    Column("alias", String(64), nullable=False),
    Column("version", Integer),  # None: the alias was taken away
    Column("previous_version", Integer),
    Column("evidence_id", _DIGEST, ForeignKey("evidence.evidence_id"), nullable=False),
    Column("moved_at", Timestamp, nullable=False),
    Column("moved_by", _ACTOR, nullable=False),
    Index("ix_alias_moves", "name", "alias", "move_id"),
)

registrations = Table(
    "registrations",
    metadata,
    Column("registration_id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("place", Text, nullable=False),  # host and state folder whose lock guards it
    Column("started_at", Timestamp, nullable=False),
    Column("started_by", _ACTOR, nullable=False),
    Index("ix_registrations_name", "name"),
)

version_tags = Table(
    "version_tags",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("key", String(128), primary_key=True),
    Column("value", Text, nullable=False),
    Column("set_at", Timestamp, nullable=False),
    Column("set_by", _ACTOR, nullable=False),
    Column("mirrored", Boolean, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], name="fk_version_tags_version"),
)

lineage_edges = Table(
    "lineage_edges",
    metadata,
    Column("edge_id", _ID, primary_key=True),
    Column("upstream", _NODE, nullable=False),
    Column("relation", String(32), nullable=False),
    Column("downstream", _NODE, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("by", _ACTOR, nullable=False),
    UniqueConstraint("downstream", "relation", "upstream", name="uq_lineage_edges"),
    Index("ix_lineage_upstream", "upstream"),
)

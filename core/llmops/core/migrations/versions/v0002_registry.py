"""The registry: assets, versions, aliases of record with every move, evidence, open registrations.

Evidence and alias moves are append-only, and a registered version never changes: triggers refuse it in both databases.
"""

import sqlalchemy as sa
from alembic import op

from llmops.core.sql import Timestamp

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("evidence", "alias_moves", "versions")


def upgrade() -> None:
    _versions()
    _aliases()
    for table in APPEND_ONLY:
        _refuse_changes(table)


def downgrade() -> None:
    for table in ("registrations", "alias_moves", "aliases", "evidence", "versions", "assets"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change")


def _versions() -> None:
    op.create_table(
        "assets",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("name", sa.String(200), sa.ForeignKey("assets.name"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("artifact_digest", sa.String(64)),
        sa.Column("files", sa.JSON),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("content", sa.Text),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.UniqueConstraint("name", "digest", name="uq_versions_digest"),
    )
    op.create_table(
        "registrations",
        sa.Column("registration_id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("started_at", Timestamp, nullable=False),
        sa.Column("started_by", sa.String(200), nullable=False),
    )
    op.create_index("ix_registrations_name", "registrations", ["name"])


def _aliases() -> None:
    op.create_table(
        "evidence",
        sa.Column("evidence_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("gate", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("ended", Timestamp, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], name="fk_evidence_version"),
    )
    op.create_index("ix_evidence_version", "evidence", ["name", "version"])
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("etag", sa.String(36), nullable=False),
        sa.Column("evidence_id", sa.String(64), sa.ForeignKey("evidence.evidence_id"), nullable=False),
        sa.Column("moved_at", Timestamp, nullable=False),
        sa.Column("moved_by", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], name="fk_aliases_version"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("move_id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("previous_version", sa.Integer),
        sa.Column("evidence_id", sa.String(64), sa.ForeignKey("evidence.evidence_id"), nullable=False),
        sa.Column("moved_at", Timestamp, nullable=False),
        sa.Column("moved_by", sa.String(200), nullable=False),
    )
    op.create_index("ix_alias_moves", "alias_moves", ["name", "alias", "move_id"])


def _refuse_changes(table: str) -> None:
    """Rows of this table are written once."""
    what = f"{table} is append-only"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger AS "
            "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{what}'); END"
        )

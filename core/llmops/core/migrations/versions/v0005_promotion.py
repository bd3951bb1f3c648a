"""Promotion and lineage: where each version stands, its steps, approvals, policies; version tags; what came from what.

Steps, approvals, policies and lineage edges are append-only, as evidence and alias moves are.
"""

import sqlalchemy as sa
from alembic import op

from llmops.core.sql import Timestamp

revision = "0005"
down_revision = "0004"

APPEND_ONLY = ("promotion_steps", "approvals", "policies", "lineage_edges")


def upgrade() -> None:
    op.add_column("assets", sa.Column("last_id", sa.String(36)))
    op.add_column("assets", sa.Column("mirrored", sa.Boolean, nullable=False, server_default=sa.true()))
    op.execute(
        "UPDATE assets SET last_id = (SELECT max(move_id) FROM alias_moves WHERE alias_moves.name = assets.name)"
    )
    _promotions()
    _approvals()
    _beside_versions()
    for table in APPEND_ONLY:
        _refuse_changes(table)


def downgrade() -> None:
    for table in ("lineage_edges", "version_tags", "policies", "approvals", "promotion_steps", "promotions"):
        op.drop_table(table)
    for column in ("last_id", "mirrored"):
        op.drop_column("assets", column)


def _promotions() -> None:
    op.create_table(
        "promotions",
        sa.Column("promotion_id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("held_from", sa.String(32)),
        sa.Column("evidence_id", sa.String(64)),
        sa.Column("etag", sa.String(36), nullable=False),
        sa.Column("policy", sa.JSON, nullable=False),
        sa.Column("started_at", Timestamp, nullable=False),
        sa.Column("started_by", sa.String(200), nullable=False),
        sa.Column("changed_at", Timestamp, nullable=False),
        sa.Column("changed_by", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["versions.name", "versions.version"], name="fk_promotions_version"
        ),
    )
    op.create_index("ix_promotions_version", "promotions", ["name", "version", "promotion_id"])
    op.create_table(
        "promotion_steps",
        sa.Column("step_id", sa.String(36), primary_key=True),
        sa.Column("promotion_id", sa.String(36), sa.ForeignKey("promotions.promotion_id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("before", sa.String(32), nullable=False),
        sa.Column("after", sa.String(32), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("at", Timestamp, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
    )
    op.create_index("ix_promotion_steps", "promotion_steps", ["name", "step_id"])


def _approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.String(36), primary_key=True),
        sa.Column("promotion_id", sa.String(36), sa.ForeignKey("promotions.promotion_id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("approver_group", sa.String(128), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("at", Timestamp, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
    )
    op.create_index("ix_approvals_promotion", "approvals", ["promotion_id", "approval_id"])
    op.create_index("ix_approvals_name", "approvals", ["name", "approval_id"])
    op.create_table(
        "policies",
        sa.Column("policy_id", sa.String(36), primary_key=True),
        sa.Column("scope", sa.String(200), nullable=False),
        sa.Column("body", sa.JSON),
        sa.Column("at", Timestamp, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
    )
    op.create_index("ix_policies_scope", "policies", ["scope", "policy_id"])


def _beside_versions() -> None:
    op.create_table(
        "version_tags",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("set_at", Timestamp, nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("mirrored", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["versions.name", "versions.version"], name="fk_version_tags_version"
        ),
    )
    op.create_table(
        "lineage_edges",
        sa.Column("edge_id", sa.String(36), primary_key=True),
        sa.Column("upstream", sa.String(500), nullable=False),
        sa.Column("relation", sa.String(32), nullable=False),
        sa.Column("downstream", sa.String(500), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("at", Timestamp, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.UniqueConstraint("downstream", "relation", "upstream", name="uq_lineage_edges"),
    )
    op.create_index("ix_lineage_upstream", "lineage_edges", ["upstream"])


def _refuse_changes(table: str) -> None:
    """Rows of this table are written once; PostgreSQL's function is 0002's."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )

"""Who did what (the audit chain) and who may do what (grants and owners).

The audit log is append-only: triggers refuse changes in both databases, and the chain shows those that got round them.
"""

import sqlalchemy as sa
from alembic import op

from llmops.core.sql import Timestamp

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _audit()
    _refuse_changes("audit_log")
    op.create_table(
        "grants",
        sa.Column("securable", sa.String(200), primary_key=True),
        sa.Column("grantee", sa.String(200), primary_key=True),
        sa.Column("privilege", sa.String(32), primary_key=True),
        sa.Column("granted_at", Timestamp, nullable=False),
        sa.Column("granted_by", sa.String(200), nullable=False),
    )
    op.create_index("ix_grants_grantee", "grants", ["grantee"])
    op.create_table(
        "owners",
        sa.Column("securable", sa.String(200), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("since", Timestamp, nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
    )


def downgrade() -> None:
    for table in ("owners", "grants", "audit_open", "audit_head", "audit_log"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_truncate")


def _audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("action_id", sa.String(36), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("event_time", sa.String(27), nullable=False),
        sa.Column("version", sa.String(8), nullable=False),
        sa.Column("audit_level", sa.String(16), nullable=False),
        sa.Column("account_id", sa.String(16), nullable=False),
        sa.Column("org_id", sa.String(64)),
        sa.Column("source_ip_address", sa.String(64)),
        sa.Column("user_agent", sa.String(200)),
        sa.Column("session_id", sa.String(36), nullable=False),
        sa.Column("request_id", sa.String(64)),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("actor_kind", sa.String(16), nullable=False),
        sa.Column("actor_groups", sa.Text, nullable=False),
        sa.Column("service_name", sa.String(32), nullable=False),
        sa.Column("action_name", sa.String(32), nullable=False),
        sa.Column("about", sa.String(300), nullable=False),
        sa.Column("request_params", sa.Text, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error_message", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("evidence_id", sa.String(64)),
        sa.Column("prev_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_audit_log_about", "audit_log", ["about", "seq"])
    op.create_index("ix_audit_log_actor", "audit_log", ["actor", "seq"])
    op.create_table(
        "audit_head",
        sa.Column("head", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("account_id", sa.String(16), nullable=False),
    )
    op.execute("INSERT INTO audit_head (head, seq, hash, account_id) VALUES (1, 0, '', '')")
    op.create_table(
        "audit_open",
        sa.Column("action_id", sa.String(36), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("session_id", sa.String(36), nullable=False),
    )


def _refuse_changes(table: str) -> None:
    """Rows of this table are written once; version 0002 brought PostgreSQL's function for it."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            "CREATE FUNCTION refuse_truncate() RETURNS trigger AS "
            "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )

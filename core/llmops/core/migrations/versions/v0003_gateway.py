"""The gateway: what a virtual key may use, and what was wrong."""

import sqlalchemy as sa
from alembic import op

from llmops.core.sql import Timestamp

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "gateway_keys",
        sa.Column("key_id", sa.String(32), sa.ForeignKey("keys.key_id"), primary_key=True),
        sa.Column("team", sa.String(128)),
        sa.Column("routes", sa.JSON, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("budgets", sa.JSON, nullable=False),
    )
    op.create_table(
        "gateway_alerts",
        sa.Column("alert_id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("opened_at", Timestamp, nullable=False),
        sa.Column("ended_at", Timestamp),
        sa.Column("delivered_at", Timestamp),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("delivery_error", sa.Text, nullable=False),
    )
    op.create_index("ix_gateway_alerts_opened", "gateway_alerts", ["opened_at"])


def downgrade() -> None:
    op.drop_table("gateway_alerts")
    op.drop_table("gateway_keys")

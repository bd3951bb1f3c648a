"""Workflows: runs, tasks, attempts, triggers, and the messages they send."""

import sqlalchemy as sa
from alembic import op

from llmops.core.sql import Timestamp

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "workflows",
        sa.Column("workflow", sa.String(64), primary_key=True),
        sa.Column("scheduled_at", Timestamp),
        sa.Column("triggered_at", Timestamp),
    )
    _runs()
    _tasks()
    _doors()


def downgrade() -> None:
    for table in ("messages", "triggers", "attempts", "tasks", "runs"):
        op.drop_table(f"workflow_{table}")
    op.drop_table("workflows")


def _runs() -> None:
    op.create_table(
        "workflow_runs",
        sa.Column("run_id", sa.String(36), primary_key=True),
        sa.Column("workflow", sa.String(64), sa.ForeignKey("workflows.workflow"), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("config_hash", sa.String(64), nullable=False),
        sa.Column("config_file", sa.Text, nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("catalog", sa.String(64), nullable=False),
        sa.Column("means", sa.String(16), nullable=False),
        sa.Column("cause_key", sa.String(200)),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("principal", sa.JSON, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("started_at", Timestamp),
        sa.Column("ended_at", Timestamp),
        sa.Column("active_s", sa.Float, nullable=False),
        sa.Column("wake_at", Timestamp),
        sa.Column("reason", sa.Text),
        sa.Column("error", sa.JSON),
        sa.Column("cancelled_by", sa.String(200)),
        sa.Column("lease", sa.String(36)),
        sa.Column("lease_place", sa.Text),
        sa.Column("lease_until", Timestamp),
        sa.UniqueConstraint("workflow", "cause_key", name="uq_workflow_runs_cause"),
    )
    op.create_index("ix_workflow_runs_status", "workflow_runs", ["workflow", "status"])


def _tasks() -> None:
    op.create_table(
        "workflow_tasks",
        sa.Column("run_id", sa.String(36), sa.ForeignKey("workflow_runs.run_id"), primary_key=True),
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("handler", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("interruptions", sa.Integer, nullable=False),
        sa.Column("outputs", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("reason", sa.Text),
        sa.Column("waiting_since", Timestamp),
        sa.Column("wake_at", Timestamp),
        sa.Column("wake_on", sa.String(200)),
        sa.Column("started_at", Timestamp),
        sa.Column("ended_at", Timestamp),
        sa.Column("duration_s", sa.Float),
        sa.Column("log", sa.Text),
    )
    op.create_index("ix_workflow_tasks_wake_on", "workflow_tasks", ["wake_on"])
    op.create_table(
        "workflow_attempts",
        sa.Column("run_id", sa.String(36), primary_key=True),
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("result", sa.String(16), nullable=False),
        sa.Column("started_at", Timestamp, nullable=False),
        sa.Column("ended_at", Timestamp),
        sa.Column("duration_s", sa.Float),
        sa.Column("exit", sa.Integer),
        sa.Column("error", sa.JSON),
        sa.Column("place", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id", "task"], ["workflow_tasks.run_id", "workflow_tasks.task"], name="fk_attempts_task"
        ),
    )


def _doors() -> None:
    op.create_table(
        "workflow_triggers",
        sa.Column("key_id", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(200), primary_key=True),
        sa.Column("workflow", sa.String(64), nullable=False),
        sa.Column("received_at", Timestamp, nullable=False),
        sa.Column("address", sa.String(200), nullable=False),
        sa.Column("dedup_key", sa.String(200)),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(36)),
    )
    op.create_index("ix_workflow_triggers_received", "workflow_triggers", ["workflow", "received_at"])
    op.create_table(
        "workflow_messages",
        sa.Column("message_id", sa.String(36), primary_key=True),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("channel", sa.JSON, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("due_at", Timestamp, nullable=False),
        sa.Column("delivered_at", Timestamp),
        sa.Column("given_up_at", Timestamp),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_index("ix_workflow_messages_due", "workflow_messages", ["delivered_at", "given_up_at", "due_at"])

"""The workflow's SQL tables: workflows, runs, tasks, attempts, triggers, messages to be sent.

Knows columns and keys. What the rows mean is said by `records`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from llmops.core.sql import Timestamp

metadata = MetaData()

_ID = String(36)
_NAME = String(64)
_WORD = String(200)
_STATUS = String(16)

workflows = Table(
    "workflows",  # one row a name: whoever starts a run holds it for the moment of deciding
    metadata,
    Column("workflow", _NAME, primary_key=True),
    Column("scheduled_at", Timestamp),  # the last time of the schedule that was dealt with
    Column("triggered_at", Timestamp),  # the last run that a trigger started
)

runs = Table(
    "workflow_runs",
    metadata,
    Column("run_id", _ID, primary_key=True),
    Column("workflow", _NAME, ForeignKey("workflows.workflow"), nullable=False),
    Column("status", _STATUS, nullable=False),
    Column("config", JSON, nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("config_file", Text, nullable=False),
    Column("params", JSON, nullable=False),
    Column("catalog", _NAME, nullable=False),
    Column("means", _STATUS, nullable=False),
    Column("cause_key", _WORD),
    Column("note", Text, nullable=False),
    Column("principal", JSON, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("started_at", Timestamp),
    Column("ended_at", Timestamp),
    Column("active_s", Float, nullable=False),  # by the monotonic clock, waiting not counted
    Column("wake_at", Timestamp),
    Column("reason", Text),
    Column("error", JSON),
    Column("cancelled_by", _WORD),
    Column("lease", _ID),  # the token of the engine that runs it
    Column("lease_place", Text),  # host and state folder whose lock guards it too
    Column("lease_until", Timestamp),
    UniqueConstraint("workflow", "cause_key", name="uq_workflow_runs_cause"),
    Index("ix_workflow_runs_status", "workflow", "status"),
)

tasks = Table(
    "workflow_tasks",
    metadata,
    Column("run_id", _ID, ForeignKey("workflow_runs.run_id"), primary_key=True),
    Column("task", _NAME, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("handler", Boolean, nullable=False),
    Column("status", _STATUS, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("interruptions", Integer, nullable=False),
    Column("outputs", JSON),
    Column("error", JSON),
    Column("reason", Text),
    Column("waiting_since", Timestamp),
    Column("wake_at", Timestamp),
    Column("wake_on", _WORD),
    Column("started_at", Timestamp),
    Column("ended_at", Timestamp),
    Column("duration_s", Float),
    Column("log", Text),  # relative to the state folder
    Index("ix_workflow_tasks_wake_on", "wake_on"),
)

attempts = Table(
    "workflow_attempts",
    metadata,
    Column("run_id", _ID, primary_key=True),
    Column("task", _NAME, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("result", _STATUS, nullable=False),  # running, succeeded, waiting, failed, interrupted, cancelled
    Column("started_at", Timestamp, nullable=False),
    Column("ended_at", Timestamp),
    Column("duration_s", Float),
    Column("exit", Integer),
    Column("error", JSON),
    Column("place", Text, nullable=False),
    ForeignKeyConstraint(["run_id", "task"], ["workflow_tasks.run_id", "workflow_tasks.task"], name="fk_attempts_task"),
)

triggers = Table(
    "workflow_triggers",  # every request whose signature was right: who, when, and what came of it
    metadata,
    Column("key_id", _WORD, primary_key=True),
    Column("request_id", _WORD, primary_key=True),
    Column("workflow", _NAME, nullable=False),
    Column("received_at", Timestamp, nullable=False),
    Column("address", _WORD, nullable=False),
    Column("dedup_key", _WORD),
    Column("note", Text, nullable=False),
    Column("outcome", _STATUS, nullable=False),  # accepted, duplicate, cooling, limited
    Column("run_id", _ID),
    Index("ix_workflow_triggers_received", "workflow", "received_at"),
)

messages = Table(
    "workflow_messages",  # the outbox: written with what they tell of, in one transaction
    metadata,
    Column("message_id", _ID, primary_key=True),
    Column("run_id", _ID, nullable=False),
    Column("channel", JSON, nullable=False),  # its `notify` entry: secrets as references
    Column("body", JSON, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("due_at", Timestamp, nullable=False),
    Column("delivered_at", Timestamp),
    Column("given_up_at", Timestamp),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Index("ix_workflow_messages_due", "delivered_at", "given_up_at", "due_at"),
)

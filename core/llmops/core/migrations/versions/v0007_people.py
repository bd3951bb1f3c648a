"""People: accounts, signed-in browsers, tries of passwords; conversations, their turns, sources and shares."""

import sqlalchemy as sa
from alembic import op

from llmops.core.sql import Timestamp

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    _people()
    _conversations()
    _beside_turns()


def downgrade() -> None:
    for table in ("conversation_shares", "conversation_sources", "conversation_turns", "conversations"):
        op.drop_table(table)
    for table in ("sign_in_tries", "sign_ins", "people"):
        op.drop_table(table)


def _people() -> None:
    op.create_table(
        "people",
        sa.Column("person_id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("login", sa.String(200), unique=True),
        sa.Column("issuer", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("password", sa.Text),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("seen_at", Timestamp),
        sa.Column("disabled_at", Timestamp),
    )
    op.create_table(
        "sign_ins",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("person_id", sa.String(36), sa.ForeignKey("people.person_id", ondelete="CASCADE"), nullable=False),
        sa.Column("groups", sa.JSON),
        sa.Column("attempt_sha256", sa.String(64), unique=True),
        sa.Column("sealed_hint", sa.Text),
        sa.Column("started_at", Timestamp, nullable=False),
        sa.Column("used_at", Timestamp, nullable=False),
        sa.Column("ends_at", Timestamp, nullable=False),
    )
    op.create_index("ix_sign_ins_person", "sign_ins", ["person_id"])
    op.create_index("ix_sign_ins_ends", "sign_ins", ["ends_at"])
    op.create_table(
        "sign_in_tries",
        sa.Column("bucket", sa.String(100), primary_key=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("since", Timestamp, nullable=False),
    )
    op.create_index("ix_sign_in_tries_since", "sign_in_tries", ["since"])


def _conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("conversation_id", sa.String(36), primary_key=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("updated_at", Timestamp, nullable=False),
    )
    op.create_index("ix_conversations_updated", "conversations", ["owner", "updated_at"])
    op.create_index("ix_conversations_age", "conversations", ["updated_at"])
    op.create_table(
        "conversation_turns",
        sa.Column("turn_id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("conversation_id", sa.String(36), nullable=False),
        sa.Column("parent_id", sa.String(36)),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("asked_at", Timestamp, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("thumb", sa.String(8)),
        _of_conversation("fk_turns_conversation"),
    )
    op.create_index("ix_turns_conversation", "conversation_turns", ["owner", "conversation_id", "asked_at"])


def _beside_turns() -> None:
    op.create_table(
        "conversation_sources",
        sa.Column(
            "turn_id", sa.String(36), sa.ForeignKey("conversation_turns.turn_id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("uri_sha256", sa.String(64), primary_key=True),
        sa.Column("uri", sa.Text, nullable=False),
    )
    op.create_index("ix_conversation_sources_uri", "conversation_sources", ["uri_sha256"])
    op.create_table(
        "conversation_shares",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("conversation_id", sa.String(36), nullable=False),
        sa.Column("up_to", sa.String(36), nullable=False),
        sa.Column("shared_at", Timestamp, nullable=False),
        _of_conversation("fk_shares_conversation"),
    )
    op.create_index("ix_shares_conversation", "conversation_shares", ["owner", "conversation_id"])


def _of_conversation(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["owner", "conversation_id"],
        ["conversations.owner", "conversations.conversation_id"],
        name=name,
        ondelete="CASCADE",
    )

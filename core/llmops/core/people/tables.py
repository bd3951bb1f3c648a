"""The tables of people: accounts, signed-in browsers, tries of passwords, and conversations with their turns.

A person's conversations stand under the person's id in every key, so that a foreign id finds nothing, whatever it is.
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, ForeignKey, ForeignKeyConstraint, Index, Integer, MetaData, String, Table, Text

from llmops.core.sql import Timestamp

METADATA = MetaData()

PEOPLE = Table(
    "people",
    METADATA,
    Column("person_id", String(36), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("login", String(200), unique=True),
    Column("issuer", Text),
    Column("subject", Text),
    Column("password", Text),
    Column("groups", JSON, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("seen_at", Timestamp),
    Column("disabled_at", Timestamp),
)

SIGN_INS = Table(
    "sign_ins",
    METADATA,
    Column("token_sha256", String(64), primary_key=True),
    Column("person_id", String(36), ForeignKey("people.person_id", ondelete="CASCADE"), nullable=False),
    Column("groups", JSON),
    Column("attempt_sha256", String(64), unique=True),
    Column("sealed_hint", Text),
    Column("started_at", Timestamp, nullable=False),
    Column("used_at", Timestamp, nullable=False),
    Column("ends_at", Timestamp, nullable=False),
    Index("ix_sign_ins_person", "person_id"),
    Index("ix_sign_ins_ends", "ends_at"),
)

TRIES = Table(
    "sign_in_tries",
    METADATA,
    Column("bucket", String(100), primary_key=True),
    Column("tries", Integer, nullable=False),
    Column("since", Timestamp, nullable=False),
    Index("ix_sign_in_tries_since", "since"),
)

CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("conversation_id", String(36), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("folded", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Index("ix_conversations_updated", "owner", "updated_at"),
    Index("ix_conversations_age", "updated_at"),
)

_OF_CONVERSATION = ("conversations.owner", "conversations.conversation_id")

TURNS = Table(
    "conversation_turns",
    METADATA,
    Column("turn_id", String(36), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("conversation_id", String(36), nullable=False),
    Column("parent_id", String(36)),
    Column("endpoint", String(64), nullable=False),
    Column("asked_at", Timestamp, nullable=False),
    Column("status", String(16), nullable=False),
    Column("question", Text, nullable=False),
    Column("folded", Text, nullable=False),
    Column("body", Text),
    Column("thumb", String(8)),
    ForeignKeyConstraint(["owner", "conversation_id"], _OF_CONVERSATION, "fk_turns_conversation", ondelete="CASCADE"),
    Index("ix_turns_conversation", "owner", "conversation_id", "asked_at"),
)

SOURCES = Table(
    "conversation_sources",
    METADATA,
    Column("turn_id", String(36), ForeignKey("conversation_turns.turn_id", ondelete="CASCADE"), primary_key=True),
    Column("uri_sha256", String(64), primary_key=True),
    Column("uri", Text, nullable=False),
    Index("ix_conversation_sources_uri", "uri_sha256"),
)

SHARES = Table(
    "conversation_shares",
    METADATA,
    Column("token_sha256", String(64), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("conversation_id", String(36), nullable=False),
    Column("up_to", String(36), nullable=False),
    Column("shared_at", Timestamp, nullable=False),
    ForeignKeyConstraint(["owner", "conversation_id"], _OF_CONVERSATION, "fk_shares_conversation", ondelete="CASCADE"),
    Index("ix_shares_conversation", "owner", "conversation_id"),
)

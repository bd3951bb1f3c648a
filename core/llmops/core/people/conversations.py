"""What a person asked and was answered, kept for that person alone: begun before the answer, concluded after it.

Turns form a tree: asking again or editing a question adds a branch, and nothing is ever overwritten; what is shown is
the way to the newest turn. Knows no HTTP and no chain; whether a source may still be read is asked by `serving`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, or_, select, text, update

from llmops.core.errors import NotFoundError, UserError
from llmops.core.people.tables import CONVERSATIONS, SHARES, SOURCES, TURNS
from llmops.core.redact import redact_secrets
from llmops.core.sql import Sql, Timestamp

TITLE_CHARS: Final = 120
WRITING: Final = "writing"
"""A turn whose answer is not there: it is being written, or its server died over it."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OPEN: Final = text(
    "INSERT INTO conversations (owner, conversation_id, title, folded, created_at, updated_at) "
    "VALUES (:owner, :conversation_id, :title, :folded, :now, :now) "
    "ON CONFLICT (owner, conversation_id) DO UPDATE SET updated_at = excluded.updated_at"
).bindparams(bindparam("now", type_=Timestamp))


@dataclass(frozen=True)
class Place:
    """Whose conversation, and which."""

    owner: str
    conversation_id: str


@dataclass(frozen=True)
class Begun:
    """A question about to be answered. `parent_id` is the turn it follows, None at the beginning."""

    turn_id: str
    place: Place
    parent_id: str | None
    endpoint: str
    question: str


@dataclass(frozen=True)
class Concluded:
    """How a turn ended. `body` is what the reader saw, as JSON values; `sources` the documents it rests on."""

    status: str
    body: dict[str, Any]
    sources: frozenset[str]


@dataclass(frozen=True)
class Summary:
    """One line of a person's list."""

    conversation_id: str
    title: str
    created_at: datetime
    updated_at: datetime
    shared_at: datetime | None


@dataclass(frozen=True)
class Turn:
    """One question with its answer. `body` is empty where there is no answer, or where it was erased."""

    turn_id: str
    parent_id: str | None
    endpoint: str
    asked_at: datetime
    status: str
    question: str
    body: dict[str, Any]
    thumb: str | None
    sources: frozenset[str]


@dataclass(frozen=True)
class Conversation:
    """A conversation as it is shown: the turns on the way to the newest one."""

    summary: Summary
    turns: tuple[Turn, ...]


class Conversations:
    """The tables of conversations. Everything is asked for an owner: a foreign id is answered like none."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    def begin(self, begun: Begun) -> None:
        """Keep a question before it is answered; its conversation is made where there is none.

        Raises:
            UserError: the conversation's id is no UUID.
            NotFoundError: it follows a turn that is not of this conversation.
        """
        place, now = begun.place, datetime.now(UTC)
        if not _ID.fullmatch(place.conversation_id):
            raise UserError("a conversation's id is a UUID", where="llmops.session_id")
        question = _clean(begun.question)
        title = title_of(question)
        opened = {**vars(place), "title": title, "folded": title.casefold(), "now": now}
        with self._sql.begin() as connection:
            connection.execute(_OPEN, opened)
            if begun.parent_id is not None:
                _require_turn(connection, place, begun.parent_id)
            row = {
                **vars(place), "turn_id": begun.turn_id, "parent_id": begun.parent_id, "endpoint": begun.endpoint,
                "asked_at": now, "status": WRITING, "question": question, "folded": question.casefold(),
            }  # fmt: skip
            connection.execute(insert(TURNS).values(row))

    def conclude(self, owner: str, turn_id: str, concluded: Concluded) -> None:
        """Keep an answer with what it rests on; where the conversation was deleted meanwhile, nothing is kept."""
        body = redact_secrets(orjson.dumps(_text_only(concluded.body))).decode()
        mine = (TURNS.c.turn_id == turn_id) & (TURNS.c.owner == owner)
        with self._sql.begin() as connection:
            values = {"status": concluded.status, "body": body}
            if not connection.execute(update(TURNS).where(mine).values(values)).rowcount:
                return
            for uri in sorted({_plain(uri) for uri in concluded.sources}):
                connection.execute(insert(SOURCES).values(turn_id=turn_id, uri_sha256=uri_key(uri), uri=uri))

    def judge(self, owner: str, turn_id: str, thumb: str) -> None:
        """Keep which way a thumb points, for whoever gave it; a turn that is not kept is left alone."""
        mine = (TURNS.c.turn_id == turn_id) & (TURNS.c.owner == owner)
        with self._sql.begin() as connection:
            connection.execute(update(TURNS).where(mine).values(thumb=thumb))

    def list(self, owner: str, *, words: str = "", before: Summary | None = None, limit: int = 100) -> list[Summary]:
        """A person's conversations, newest first; with `words`, those whose title or questions hold them all.

        Answers are not searched: they may rest on what their reader may no longer read.
        """
        c = CONVERSATIONS.c
        query = _summaries().where(c.owner == owner)
        for word in words.casefold().split()[:10]:
            like = f"%{_escaped(_plain(word))}%"
            asked = exists().where(
                TURNS.c.owner == owner,
                TURNS.c.conversation_id == c.conversation_id,
                TURNS.c.folded.like(like, escape="\\"),
            )
            query = query.where(or_(c.folded.like(like, escape="\\"), asked))
        if before is not None:
            earlier = (c.updated_at == before.updated_at) & (c.conversation_id < before.conversation_id)
            query = query.where(or_(c.updated_at < before.updated_at, earlier))
        with self._sql.read() as connection:
            newest = query.order_by(c.updated_at.desc(), c.conversation_id.desc()).limit(limit)
            return [_summary(row) for row in connection.execute(newest)]

    def summary(self, place: Place) -> Summary:
        """One line of the list.

        Raises:
            NotFoundError: this person has no such conversation.
        """
        with self._sql.read() as connection:
            return _find(connection, place)

    def read(self, place: Place, up_to: str | None = None) -> Conversation:
        """A conversation, to its newest turn or `up_to` one.

        Raises:
            NotFoundError: this person has no such conversation.
        """
        with self._sql.read() as connection:
            found = _find(connection, place)
            theirs = _theirs(TURNS, place)
            rows = connection.execute(select(TURNS).where(theirs).order_by(TURNS.c.asked_at, TURNS.c.turn_id)).all()
            joined = SOURCES.join(TURNS, SOURCES.c.turn_id == TURNS.c.turn_id)
            cited = connection.execute(select(SOURCES.c.turn_id, SOURCES.c.uri).select_from(joined).where(theirs)).all()
        sources: dict[str, set[str]] = {}
        for row in cited:
            sources.setdefault(row.turn_id, set()).add(row.uri)
        turns = [_turn(row, frozenset(sources.get(row.turn_id, ()))) for row in rows]
        return Conversation(found, tuple(_way(turns, up_to)))

    def rename(self, place: Place, title: str) -> Summary:
        """Another title.

        Raises:
            UserError: it is empty.
            NotFoundError: this person has no such conversation.
        """
        clean = " ".join(_clean(title).split())[:TITLE_CHARS]
        if not clean:
            raise UserError("a conversation needs a title", where="title")
        with self._sql.begin() as connection:
            values = {"title": clean, "folded": clean.casefold()}
            connection.execute(update(CONVERSATIONS).where(_theirs(CONVERSATIONS, place)).values(values))
            return _find(connection, place)

    def remove(self, place: Place) -> None:
        """Delete a conversation for good, with its links.

        Raises:
            NotFoundError: this person has no such conversation.
        """
        with self._sql.begin() as connection:
            if not connection.execute(delete(CONVERSATIONS).where(_theirs(CONVERSATIONS, place))).rowcount:
                raise _unknown(place)

    def remove_all(self, owner: str) -> int:
        """Delete everything a person kept; says how many conversations."""
        with self._sql.begin() as connection:
            return connection.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.owner == owner)).rowcount

    def remove_older(self, age: timedelta) -> int:
        """Delete conversations that nobody has gone on with for so long; says how many."""
        with self._sql.begin() as connection:
            old = CONVERSATIONS.c.updated_at < datetime.now(UTC) - age
            return connection.execute(delete(CONVERSATIONS).where(old)).rowcount


def title_of(question: str) -> str:
    """A title from a first question: its words, cut after 60 characters."""
    line = " ".join(question.split())
    return line if len(line) <= 60 else f"{line[:57].rstrip()}…"


def uri_key(uri: str) -> str:
    """By what a document is found in the table of sources, however long its URI is."""
    return sha256(uri.encode(errors="replace")).hexdigest()


def _way(turns: list[Turn], up_to: str | None) -> Iterator[Turn]:
    """The turns from the first to the newest (or to `up_to`), each followed by its answer to the next question."""
    by_id = {turn.turn_id: turn for turn in turns}
    step = by_id.get(up_to) if up_to else (turns[-1] if turns else None)
    way: list[Turn] = []
    while step is not None and len(way) < len(turns):
        way.append(step)
        step = by_id.get(step.parent_id) if step.parent_id else None
    return reversed(way)


def _theirs(table: Any, place: Place) -> Any:
    return (table.c.owner == place.owner) & (table.c.conversation_id == place.conversation_id)


def _summaries() -> Any:
    c = CONVERSATIONS.c
    mine = (SHARES.c.owner == c.owner) & (SHARES.c.conversation_id == c.conversation_id)
    shared = select(SHARES.c.shared_at).where(mine).order_by(SHARES.c.shared_at.desc()).limit(1).scalar_subquery()
    return select(c.conversation_id, c.title, c.created_at, c.updated_at, shared.label("shared_at"))


def _find(connection: Connection, place: Place) -> Summary:
    row = connection.execute(_summaries().where(_theirs(CONVERSATIONS, place))).first()
    if row is None:
        raise _unknown(place)
    return _summary(row)


def _require_turn(connection: Connection, place: Place, turn_id: str) -> None:
    theirs = _theirs(TURNS, place) & (TURNS.c.turn_id == turn_id)
    if connection.execute(select(TURNS.c.turn_id).where(theirs)).first() is None:
        raise NotFoundError(
            "the question follows an answer that is no longer there", where="llmops.after", code="no_such_turn",
            hint="open the conversation again, or begin a new one",
        )  # fmt: skip


def _unknown(place: Place) -> NotFoundError:
    return NotFoundError("you have no such conversation", where=place.conversation_id[:64], code="no_such_conversation")


def _summary(row: Row[Any]) -> Summary:
    return Summary(row.conversation_id, row.title, row.created_at, row.updated_at, row.shared_at)


def _turn(row: Row[Any], sources: frozenset[str]) -> Turn:
    body = orjson.loads(row.body) if row.body else {}
    return Turn(
        row.turn_id, row.parent_id, row.endpoint, row.asked_at, row.status, row.question, body, row.thumb, sources
    )


def _clean(words: str) -> str:
    """A person's words as they may be kept: text that every database takes, with secrets taken out."""
    kept: str = orjson.loads(redact_secrets(orjson.dumps(_plain(words))))
    return kept


def _plain(words: str) -> str:
    """Without what is no text: NUL, which PostgreSQL refuses, and halves of surrogate pairs."""
    return words.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _text_only(value: Any) -> Any:
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, dict):
        return {_plain(str(name)): _text_only(inner) for name, inner in value.items()}
    return [_text_only(inner) for inner in value] if isinstance(value, list | tuple) else value


def _escaped(word: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", word)


def blanked(connection: Connection, turn_ids: Iterable[str]) -> int:
    """Erase the answers of turns, and leave the questions; says how many had one."""
    count = 0
    for turn_id in turn_ids:
        values = {"body": orjson.dumps({"erased": True}).decode(), "thumb": None}
        count += connection.execute(update(TURNS).where(TURNS.c.turn_id == turn_id).values(values)).rowcount
        connection.execute(delete(SOURCES).where(SOURCES.c.turn_id == turn_id))
    return count

"""Links to a conversation: made on purpose, to what had been said at that moment, and ended at will.

A link's word has 256 random bits and is known by its SHA-256. Who may read what stands behind it is asked elsewhere.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from hashlib import sha256

from sqlalchemy import ColumnElement, delete, insert, select

from llmops.core.errors import NotFoundError, UserError
from llmops.core.people.conversations import Conversation, Conversations, Place
from llmops.core.people.tables import SHARES
from llmops.core.sql import Sql


class Shares:
    """The table of links."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._conversations = Conversations(sql)

    def share(self, place: Place) -> str:
        """A new link's word; an earlier link to the same conversation ends.

        Raises:
            NotFoundError: this person has no such conversation.
            UserError: nothing has been said in it yet.
        """
        turns = self._conversations.read(place).turns
        if not turns:
            raise UserError("there is nothing to share yet", where=place.conversation_id)
        word = secrets.token_urlsafe(32)
        row = {**vars(place), "token_sha256": _hash(word), "up_to": turns[-1].turn_id, "shared_at": datetime.now(UTC)}
        with self._sql.begin() as connection:
            connection.execute(delete(SHARES).where(_to(place)))
            connection.execute(insert(SHARES).values(row))
        return word

    def revoke(self, place: Place) -> None:
        """End the link, at once; without one nothing happens.

        Raises:
            NotFoundError: this person has no such conversation.
        """
        self._conversations.summary(place)
        with self._sql.begin() as connection:
            connection.execute(delete(SHARES).where(_to(place)))

    def open(self, word: str) -> Conversation:
        """What stands behind a link.

        Raises:
            NotFoundError: there is no such link, or no longer.
        """
        with self._sql.read() as connection:
            row = connection.execute(select(SHARES).where(SHARES.c.token_sha256 == _hash(word))).first()
        if row is None:
            raise NotFoundError("this link leads nowhere, or no longer", code="no_such_link")
        return self._conversations.read(Place(row.owner, row.conversation_id), row.up_to)


def _to(place: Place) -> ColumnElement[bool]:
    return (SHARES.c.owner == place.owner) & (SHARES.c.conversation_id == place.conversation_id)


def _hash(word: str) -> str:
    return sha256(word.encode(errors="replace")).hexdigest()

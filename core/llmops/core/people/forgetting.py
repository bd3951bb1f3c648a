"""Taking a person, or a document, out of what people kept: for whoever carries out a wish to be forgotten.

Knows the tables of people only; indexes, logs and caches are taken care of where they live.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, select

from llmops.core.people.accounts import PREFIX
from llmops.core.people.conversations import blanked, uri_key
from llmops.core.people.tables import CONVERSATIONS, PEOPLE, SOURCES
from llmops.core.sql import Sql

_AT_ONCE = 500


def forget_person(sql: Sql, principal_id: str) -> int:
    """Erase a person's conversations, account and signed-in browsers; says how many conversations there were.

    Somebody whom a provider vouches for may come back, and begins with nothing then. Doing it twice does no harm.
    """
    with sql.erase() as connection:
        kept = connection.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.owner == principal_id)).rowcount
        if principal_id.startswith(PREFIX):
            connection.execute(delete(PEOPLE).where(PEOPLE.c.person_id == principal_id.removeprefix(PREFIX)))
    return kept


def forget_documents(sql: Sql, uris: Iterable[str]) -> int:
    """Erase every kept answer that rests on one of these documents, whoever asked; the questions stay.

    An answer that had several sources goes as a whole. Says how many answers were erased.
    """
    keys = sorted({uri_key(uri) for uri in uris})
    erased = 0
    with sql.erase() as connection:
        for start in range(0, len(keys), _AT_ONCE):
            some = SOURCES.c.uri_sha256.in_(keys[start : start + _AT_ONCE])
            turns = connection.execute(select(SOURCES.c.turn_id).where(some).distinct()).scalars().all()
            erased += blanked(connection, turns)
    return erased

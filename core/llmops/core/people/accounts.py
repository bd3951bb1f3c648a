"""Who there is: people with a password of ours, and people whom a provider of identities vouches for.

A person's id is stable and no name: names change hands. Knows neither a browser nor a provider's wire.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update

from llmops.core.errors import ConflictError, NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.core.people.passwords import STANDARD, Cost, hash_password
from llmops.core.people.tables import PEOPLE, SIGN_INS
from llmops.core.sql import Sql

PREFIX: Final = "person:"
_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,98}")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/-]{0,62}")


@dataclass(frozen=True)
class Person:
    """What may be shown of a person. `issuer` is the provider's, None for an account of ours."""

    person_id: str
    name: str
    issuer: str | None
    groups: frozenset[str]
    created_at: datetime
    created_by: str
    seen_at: datetime | None
    disabled_at: datetime | None

    @property
    def principal_id(self) -> str:
        return PREFIX + self.person_id

    def principal(self, groups: frozenset[str] | None = None) -> Principal:
        """Whom a request of theirs comes from; `groups` are those of one sign-in."""
        return Principal(self.principal_id, "person", self.groups if groups is None else groups)


class Accounts:
    """The table of people."""

    def __init__(self, sql: Sql, cost: Cost = STANDARD) -> None:
        self._sql = sql
        self._cost = cost

    def add(self, login: str, password: str, *, groups: Iterable[str] = (), by: str = "local") -> Person:
        """A new account of ours.

        Raises:
            UserError: the name, a group or the password can't be one.
            ConflictError: the name is taken.
        """
        if not _LOGIN.fullmatch(login):
            raise UserError(f"`{login[:100]}` is no name", hint="write letters, digits and . _ @ + -, 99 at most")
        row = {
            "person_id": secrets.token_hex(8), "name": login, "login": login.casefold(),
            "password": hash_password(password, self._cost), "groups": sorted(checked_groups(groups)),
            "created_at": datetime.now(UTC), "created_by": by,
        }  # fmt: skip
        with self._sql.begin() as connection:
            taken = connection.execute(select(PEOPLE.c.person_id).where(PEOPLE.c.login == row["login"])).first()
            if taken is not None:
                raise ConflictError(f"there is an account named `{login}` already", hint="choose another name")
            connection.execute(insert(PEOPLE).values(row))
        return self.named(login)

    def list(self) -> list[Person]:
        """Everybody, by name; also who is disabled."""
        with self._sql.read() as connection:
            return [person_of(row) for row in connection.execute(select(PEOPLE).order_by(func.lower(PEOPLE.c.name)))]

    def any_local(self) -> bool:
        """Whether there is an account of ours at all; without one nobody can sign in by password."""
        with self._sql.read() as connection:
            return connection.execute(select(PEOPLE.c.person_id).where(PEOPLE.c.login.is_not(None))).first() is not None

    def named(self, name: str) -> Person:
        """An account by its name, or anybody by `person:ID`.

        Raises:
            NotFoundError: there is nobody of this name or id.
        """
        by_id = PEOPLE.c.person_id == name.removeprefix(PREFIX)
        wanted = by_id if name.startswith(PREFIX) else PEOPLE.c.login == name.casefold()
        with self._sql.read() as connection:
            row = connection.execute(select(PEOPLE).where(wanted)).first()
        if row is None:
            raise NotFoundError("nobody has this name or id", where=name, hint="`llmops accounts list` shows them")
        return person_of(row)

    def find(self, person_id: str) -> Person | None:
        """Anybody by their id."""
        with self._sql.read() as connection:
            row = connection.execute(select(PEOPLE).where(PEOPLE.c.person_id == person_id)).first()
        return None if row is None else person_of(row)

    def password_of(self, login: str) -> tuple[str | None, str | None]:
        """(person id, password's hash) of an account that works; nothing for a name that can't sign in."""
        with self._sql.read() as connection:
            row = connection.execute(
                select(PEOPLE.c.person_id, PEOPLE.c.password).where(
                    PEOPLE.c.login == login.casefold(), PEOPLE.c.disabled_at.is_(None)
                )
            ).first()
        return (None, None) if row is None else (row.person_id, row.password)

    def vouched(self, issuer: str, subject: str, name: str, groups: frozenset[str]) -> Person:
        """The person a provider vouches for, written down at the first sign-in; the name may change at each."""
        person_id = person_id_of(issuer, subject)
        seen = {"name": name[:200], "groups": sorted(groups), "seen_at": datetime.now(UTC)}
        with self._sql.begin() as connection:
            changed = connection.execute(update(PEOPLE).where(PEOPLE.c.person_id == person_id).values(seen)).rowcount
            if not changed:
                new = {"person_id": person_id, "issuer": issuer, "subject": subject, "created_by": issuer[:200]}
                connection.execute(insert(PEOPLE).values(**seen, **new, created_at=seen["seen_at"]))
        return self.named(PREFIX + person_id)

    def sign_out(self, person_id: str) -> int:
        """Sign somebody out everywhere, at once; says of how many browsers."""
        with self._sql.begin() as connection:
            return connection.execute(delete(SIGN_INS).where(SIGN_INS.c.person_id == person_id)).rowcount

    def set_password(self, person_id: str, password: str) -> None:
        """Another password; every browser of theirs is signed out.

        Raises:
            UserError: it is no password, or the person has none with us.
        """
        hashed = hash_password(password, self._cost)
        with self._sql.begin() as connection:
            ours = (PEOPLE.c.person_id == person_id) & PEOPLE.c.login.is_not(None)
            if not connection.execute(update(PEOPLE).where(ours).values(password=hashed)).rowcount:
                raise UserError("this person signs in elsewhere and has no password here", where=person_id)
            connection.execute(delete(SIGN_INS).where(SIGN_INS.c.person_id == person_id))

    def set_groups(self, person_id: str, groups: Iterable[str]) -> Person:
        """Other groups, from the next request on.

        Raises:
            UserError: a group can't be one, or the person's groups come from a provider.
        """
        wanted = sorted(checked_groups(groups))
        with self._sql.begin() as connection:
            ours = (PEOPLE.c.person_id == person_id) & PEOPLE.c.login.is_not(None)
            if not connection.execute(update(PEOPLE).where(ours).values(groups=wanted)).rowcount:
                raise UserError("this person's groups come from where they sign in", where=person_id)
        return self.named(PREFIX + person_id)

    def set_disabled(self, person_id: str, disabled: bool) -> Person:
        """Shut somebody out, at once and in every browser, or let them in again."""
        with self._sql.begin() as connection:
            moment = datetime.now(UTC) if disabled else None
            connection.execute(update(PEOPLE).where(PEOPLE.c.person_id == person_id).values(disabled_at=moment))
            if disabled:
                connection.execute(delete(SIGN_INS).where(SIGN_INS.c.person_id == person_id))
        return self.named(PREFIX + person_id)


def person_id_of(issuer: str, subject: str) -> str:
    """The id of whom a provider calls by this subject."""
    return sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:16]


def checked_groups(groups: Iterable[str]) -> frozenset[str]:
    """The groups, where each can be the name of one.

    Raises:
        UserError
    """
    found = frozenset(groups)
    for group in found:
        if not _GROUP.fullmatch(group):
            raise UserError(f"`{group[:80]}` is no group", hint="write letters, digits, and _ . : @ / -")
    return found


def can_be_group(word: str) -> bool:
    return _GROUP.fullmatch(word) is not None


def person_of(row: Row[Any]) -> Person:
    """A row of the table, without its secrets."""
    return Person(
        row.person_id, row.name, row.issuer, frozenset(row.groups), row.created_at, row.created_by, row.seen_at,
        row.disabled_at,
    )  # fmt: skip

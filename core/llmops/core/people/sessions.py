"""Browsers that are signed in: an opaque random cookie each, known by its SHA-256, with an end, and ended at will.

The row decides at every request, so that signing out, disabling somebody or another password work at once. Knows no
HTTP; how somebody proved who they are is asked elsewhere.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from sqlalchemy import delete, insert, select, update

from llmops.core.identity import Principal
from llmops.core.people.accounts import Person, person_of
from llmops.core.people.tables import PEOPLE, SIGN_INS
from llmops.core.sql import Sql

USED_EVERY: Final = timedelta(minutes=1)
"""How exactly it is known when a browser was last seen; a row is not written at every request."""


@dataclass(frozen=True)
class SignedIn:
    """One browser's sign-in. `sealed_hint` is what its provider wants to be shown at the end, sealed by the cookie."""

    person: Person
    principal: Principal
    sealed_hint: str | None


@dataclass(frozen=True)
class Proof:
    """What a sign-in rests on: groups said by a provider (None: those of the account), the attempt that it ends, and
    what the provider wants to see at sign-out."""

    groups: frozenset[str] | None = None
    attempt: str | None = None
    sealed_hint: str | None = None


class SignIns:
    """The table of signed-in browsers.

    Args:
        life: after it a browser signs in again, whatever happens.
        idle: after it an unused one does.
    """

    def __init__(self, sql: Sql, *, life: timedelta, idle: timedelta) -> None:
        self._sql = sql
        self.life = life
        self.idle = idle

    def begin(self, person_id: str, token: str, proof: Proof | None = None) -> None:
        """Sign a browser in that will show `token`.

        Raises:
            ConflictError: this very attempt has signed a browser in already.
        """
        proof, now = proof or Proof(), datetime.now(UTC)
        row = {
            "token_sha256": _hash(token), "person_id": person_id, "sealed_hint": proof.sealed_hint,
            "groups": None if proof.groups is None else sorted(proof.groups),
            "attempt_sha256": _hash(proof.attempt) if proof.attempt else None,
            "started_at": now, "used_at": now, "ends_at": now + self.life,
        }  # fmt: skip
        with self._sql.begin() as connection:
            connection.execute(delete(SIGN_INS).where(SIGN_INS.c.ends_at < now))
            connection.execute(update(PEOPLE).where(PEOPLE.c.person_id == person_id).values(seen_at=now))
            connection.execute(insert(SIGN_INS).values(row))

    def read(self, token: str | None) -> SignedIn | None:
        """Who a cookie stands for at this moment."""
        if not token or len(token) > 100:
            return None
        wanted, now = _hash(token), datetime.now(UTC)
        joined = select(PEOPLE, SIGN_INS.c.token_sha256, SIGN_INS.c.groups.label("said"), SIGN_INS.c.sealed_hint,
                        SIGN_INS.c.used_at, SIGN_INS.c.ends_at)  # fmt: skip
        with self._sql.read() as connection:
            row = connection.execute(
                joined.join(SIGN_INS, SIGN_INS.c.person_id == PEOPLE.c.person_id).where(
                    SIGN_INS.c.token_sha256 == wanted
                )
            ).first()
        if row is None or not hmac.compare_digest(row.token_sha256, wanted) or row.disabled_at is not None:
            return None
        if now >= row.ends_at or now - row.used_at >= self.idle:
            return None
        if now - row.used_at >= min(USED_EVERY, self.idle / 2):
            with self._sql.begin() as connection:
                connection.execute(update(SIGN_INS).where(SIGN_INS.c.token_sha256 == wanted).values(used_at=now))
        person = person_of(row)
        said = None if row.said is None else frozenset(row.said)
        return SignedIn(person, person.principal(said), row.sealed_hint)

    def end(self, token: str) -> None:
        """Sign a browser out: its cookie is worth nothing from now on."""
        with self._sql.begin() as connection:
            connection.execute(delete(SIGN_INS).where(SIGN_INS.c.token_sha256 == _hash(token)))


def new_token() -> str:
    """A cookie's value: 256 random bits."""
    return secrets.token_urlsafe(32)


def _hash(token: str) -> str:
    return sha256(token.encode(errors="surrogatepass")).hexdigest()

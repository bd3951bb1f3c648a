"""One table of keys for every door: a program shows a token and becomes a principal.

A token is `lk_<id>_<secret>`: the id finds the row, the secret has 256 random bits and is stored as its SHA-256 only (a
random secret needs no slow hash). Knows tokens and scopes; which door asks for which scope is the door's matter.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, Connection, MetaData, Row, String, Table, insert, select, update

from llmops.core.errors import DeniedError, NotFoundError, UnauthenticatedError, UserError
from llmops.core.identity import LOCAL, Principal
from llmops.core.sql import Sql, Timestamp, open_sql
from llmops.core.state import StateConfig

TOKEN_VARIABLE = "LLMOPS_KEY"  # noqa: S105 - its name, not its value
REGISTRY_SCOPE = "registry"
"""What a key is for whose holder reads and changes the registry; what it may do there is granted to it."""
METADATA = MetaData()
KEYS = Table(
    "keys",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("expires_at", Timestamp),
    Column("revoked_at", Timestamp),
)

_TOKEN = re.compile(r"lk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/-]{0,62}")
_REMEMBERED_S = 1.0
_REMEMBERED_KEYS = 10_000


@dataclass(frozen=True)
class Key:
    """What may be shown of a key. `principal` is whom a request with it comes from."""

    key_id: str
    name: str
    scopes: frozenset[str]
    groups: frozenset[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def principal(self) -> Principal:
        return Principal(id=f"key:{self.key_id}", kind="key", groups=self.groups)

    def active(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class NewKey:
    """A key that is in no table yet, so that its making can go on record under its id before it works."""

    token: str = field(repr=False)
    key: Key
    secret_sha256: str = field(repr=False)

    @classmethod
    def draw(
        cls,
        name: str,
        *,
        scopes: Iterable[str],
        groups: Iterable[str] = (),
        expires_at: datetime | None = None,
        created_by: str = "local",
    ) -> NewKey:
        """Think of a key; its token is known only here and cannot be had again.

        Raises:
            UserError: something about it is malformed.
        """
        now = datetime.now(UTC)
        if not 1 <= len(name.strip()) <= 200:
            raise UserError("a key needs a name of 1 to 200 characters")
        if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
            raise UserError("a key expires in the future, with a time zone", where=str(expires_at))
        key = Key(
            key_id=secrets.token_hex(8),
            name=name.strip(),
            scopes=_words("scope", scopes),
            groups=_words("group", groups),
            created_at=now,
            created_by=created_by,
            expires_at=expires_at,
            revoked_at=None,
        )
        if not key.scopes:
            raise UserError("a key needs a scope", hint="say what it may do, for example serving")
        secret = secrets.token_urlsafe(32)
        return cls(f"lk_{key.key_id}_{secret}", key, _hash(secret))

    def add(self, connection: Connection) -> None:
        """Put it into the table, in the caller's transaction; from its commit on it works."""
        key = self.key
        row = {**vars(key), "scopes": sorted(key.scopes), "groups": sorted(key.groups)}
        connection.execute(insert(KEYS).values({**row, "secret_sha256": self.secret_sha256}))


@dataclass(frozen=True)
class _Remembered:
    key: Key
    secret_sha256: str
    until: float


def acting_principal(state: StateConfig, scope: str) -> Principal:
    """Whom this process acts for: the holder of the key in LLMOPS_KEY, else the machine's own account.

    Raises:
        UnauthenticatedError: the key is not valid.
        DeniedError: the key is good but not for this scope.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        return LOCAL
    if not state.is_there:
        hint = f"unset {TOKEN_VARIABLE}, or work where the key was made; `llmops keys create NAME` makes one"
        raise UnauthenticatedError("the key is not valid: none was ever made here", where=str(state.root), hint=hint)
    with open_sql(state) as sql:
        return Keys(sql).verify(token, scope)


class Keys:
    """The key table. `verify` remembers a row for one second, so a revoked key may work that long."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._remembered: dict[str, _Remembered] = {}
        self._lock = threading.Lock()

    def create(self, name: str, **wanted: Any) -> tuple[str, Key]:
        """Make a key, `wanted` as `NewKey.draw` takes it; gives its token, which is shown this once."""
        new = NewKey.draw(name, **wanted)
        with self._sql.begin() as connection:
            new.add(connection)
        return new.token, new.key

    def list(self) -> list[Key]:
        """Every key, newest first, revoked ones too."""
        with self._sql.read() as connection:
            return [_key(row) for row in connection.execute(select(KEYS).order_by(KEYS.c.created_at.desc()))]

    def find(self, key_id: str) -> Key | None:
        """A key by its id, also one that has ended."""
        with self._sql.read() as connection:
            row = connection.execute(select(KEYS).where(KEYS.c.key_id == key_id)).one_or_none()
        return None if row is None else _key(row)

    def revoke(self, key_id: str) -> Key:
        """End a key, everywhere within a second. Revoking twice keeps the first time."""
        with self._sql.begin() as connection:
            return self.end(connection, key_id)

    def end(self, connection: Connection, key_id: str) -> Key:
        """End a key in the caller's transaction.

        Raises:
            NotFoundError: there is no such key.
        """
        still = (KEYS.c.key_id == key_id, KEYS.c.revoked_at.is_(None))
        connection.execute(update(KEYS).where(*still).values(revoked_at=datetime.now(UTC)))
        row = connection.execute(select(KEYS).where(KEYS.c.key_id == key_id)).one_or_none()
        if row is None:
            raise NotFoundError("no such key", where=key_id, hint="list the keys to see their ids")
        with self._lock:
            self._remembered.pop(key_id, None)
        return _key(row)

    def verify(self, token: str, scope: str) -> Principal:
        """Who shows this token.

        Raises:
            UnauthenticatedError: malformed, unknown, wrong, expired and revoked are not told apart.
            DeniedError: the key is good but not for this scope.
        """
        match = _TOKEN.fullmatch(token)
        found = self._remember(match[1]) if match else None
        # Compared also where there is no such key, so that the time taken does not tell ids apart.
        right = hmac.compare_digest(_hash(match[2] if match else ""), found.secret_sha256 if found else _NO_HASH)
        if found is None or not right or not found.key.active(datetime.now(UTC)):
            raise UnauthenticatedError("the key is not valid", hint="send it as `Authorization: Bearer lk_...`")
        if scope not in found.key.scopes:
            raise DeniedError(f"the key may not be used for {scope}", where=found.key.key_id)
        return found.key.principal

    def working(self, key_id: str, scope: str) -> Principal | None:
        """Who this key stands for, where it works at this moment and is for this scope."""
        key = self.find(key_id)
        if key is None or scope not in key.scopes or not key.active(datetime.now(UTC)):
            return None
        return key.principal

    def any_active(self) -> bool:
        """Whether some key works at all; a public bind without one is refused."""
        now = datetime.now(UTC)
        return any(key.active(now) for key in self.list())

    def _remember(self, key_id: str) -> _Remembered | None:
        now = time.monotonic()
        found = self._remembered.get(key_id)
        if found is not None and now < found.until:
            return found
        with self._sql.read() as connection:
            row = connection.execute(select(KEYS).where(KEYS.c.key_id == key_id)).one_or_none()
        if row is None:
            return None  # not remembered: guesses must not fill the memory
        # Counted from before the read: a revocation committed after it is seen at most this much later.
        found = _Remembered(_key(row), row.secret_sha256, now + _REMEMBERED_S)
        with self._lock:
            if len(self._remembered) >= _REMEMBERED_KEYS:
                self._remembered.clear()
            self._remembered[key_id] = found
        return found


_NO_HASH = "0" * 64


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Row[Any]) -> Key:
    values = {name: value for name, value in row._mapping.items() if name != "secret_sha256"}
    return Key(**{**values, "scopes": frozenset(row.scopes), "groups": frozenset(row.groups)})


def _words(what: str, words: Iterable[str]) -> frozenset[str]:
    found = frozenset(words)
    for word in found:
        if not _WORD.fullmatch(word):
            raise UserError(f"`{word}` is not a {what}", hint="write a word of letters, digits, and _ . : @ / -")
    return found

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from llmops.core import keys as keys_module
from llmops.core.errors import DeniedError, NotFoundError, UnauthenticatedError, UserError
from llmops.core.identity import Principal
from llmops.core.keys import Keys
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig


@pytest.fixture
def sql(either_state: StateConfig) -> Iterator[Sql]:
    with open_sql(either_state) as opened:
        yield opened


@pytest.fixture
def keys(sql: Sql) -> Keys:
    return Keys(sql)


def test_a_token_becomes_its_principal(keys: Keys) -> None:
    token, key = keys.create("batch job", scopes=["serving", "gateway"], groups=["hr"])

    assert keys.verify(token, "serving") == Principal(f"key:{key.key_id}", "key", frozenset({"hr"}))
    with pytest.raises(DeniedError, match="not be used for admin"):
        keys.verify(token, "admin")


def test_the_secret_is_stored_nowhere(keys: Keys, tmp_path: Path) -> None:
    token, key = keys.create("a", scopes=["serving"])
    secret = token.rpartition(f"lk_{key.key_id}_")[2]

    assert len(secret) == 43
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes()
    assert secret not in repr(keys.list())


def test_wrong_tokens_are_not_told_apart(keys: Keys) -> None:
    token, _ = keys.create("a", scopes=["serving"])
    other, _ = keys.create("b", scopes=["serving"])
    swapped = token[:20] + other[20:]

    messages = set()
    for wrong in (swapped, token[:-1] + "!", token + "x", "", "lk_", "Bearer " + token, "lk_" + "0" * 16 + token[19:]):
        with pytest.raises(UnauthenticatedError) as error:
            keys.verify(wrong, "serving")
        messages.add(str(error.value))
    assert messages == {"the key is not valid"}


def test_a_revoked_key_is_refused_everywhere_once_it_is_forgotten(
    keys: Keys, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, key = keys.create("a", scopes=["serving"])
    elsewhere = Keys(sql)
    elsewhere.verify(token, "serving")

    revoked = keys.revoke(key.key_id)

    assert keys_module._REMEMBERED_S <= 2
    with pytest.raises(UnauthenticatedError):
        keys.verify(token, "serving")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + keys_module._REMEMBERED_S)
    with pytest.raises(UnauthenticatedError):
        elsewhere.verify(token, "serving")
    assert keys.revoke(key.key_id).revoked_at == revoked.revoked_at
    with pytest.raises(NotFoundError):
        keys.revoke("nobody")


def test_an_expired_key_is_refused_at_once(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    expiry = datetime.now(UTC) + timedelta(hours=1)
    token, _ = keys.create("a", scopes=["serving"], expires_at=expiry)
    keys.verify(token, "serving")

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Later:
            return cls.fromisoformat(expiry.isoformat())

    monkeypatch.setattr(keys_module, "datetime", Later)
    with pytest.raises(UnauthenticatedError):
        keys.verify(token, "serving")


def test_many_requests_cost_one_query(keys: Keys, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_REMEMBERED_S", 600)
    token, _ = keys.create("a", scopes=["serving"])
    queries: list[str] = []
    event.listen(sql._engine, "before_cursor_execute", lambda *args: queries.append(args[2]))

    for _ in range(100):
        keys.verify(token, "serving")

    assert sum("FROM keys" in query for query in queries) == 1


def test_keys_are_listed_newest_first_and_known_to_be_there(keys: Keys) -> None:
    assert not keys.any_active()
    _, first = keys.create("first", scopes=["serving"])
    _, second = keys.create("second", scopes=["serving"], created_by="ann")
    assert keys.any_active()
    assert [key.name for key in keys.list()] == ["second", "first"]
    for key in (first, second):
        keys.revoke(key.key_id)
    assert not keys.any_active()


@pytest.mark.parametrize(
    ("name", "scopes", "expires_in"),
    [
        (" ", ["serving"], None),
        ("a", [], None),
        ("a", ["not a scope!"], None),
        ("a", ["serving"], timedelta(seconds=-1)),
    ],
)
def test_a_wrong_wish_is_said(keys: Keys, name: str, scopes: list[str], expires_in: timedelta | None) -> None:
    with pytest.raises(UserError):
        keys.create(name, scopes=scopes, expires_at=datetime.now(UTC) + expires_in if expires_in else None)

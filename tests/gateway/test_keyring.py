"""The key ring: what workers know of keys, from the table through the snapshot."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.migrations import differences

from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.identity import LOCAL
from llmops.core.keys import Keys
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.gateway.config import BudgetConfig, GatewayConfig, LimitsConfig
from llmops.gateway.control.keys import VirtualKeys, Wish
from llmops.gateway.control.snapshot import Publisher
from llmops.gateway.control.tables import METADATA
from llmops.gateway.keyring import SNAPSHOT, Ring, write_snapshot
from llmops.registry.authority import Authority

CONFIG = GatewayConfig.model_validate(
    {
        "providers": {"local": {"url": "http://localhost:1/v1"}},
        "routes": [
            {"name": "fast", "targets": [{"provider": "local", "model": "m"}]},
            {"name": "deep", "targets": [{"provider": "local", "model": "m"}]},
        ],
        "teams": {"search": {}},
    }
)


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[Sql]:
    with open_sql(StateConfig(dir=tmp_path)) as opened:
        yield opened


@pytest.fixture
def by(sql: Sql, tmp_path: Path) -> Iterator[Authority]:
    with Authority.over(sql, StateConfig(dir=tmp_path), LOCAL) as authority:
        yield authority


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "gateway"


def test_the_tables_are_as_the_code_says(sql: Sql) -> None:
    assert differences(sql, METADATA) == []


def test_a_key_reaches_the_workers_with_its_policy(sql: Sql, by: Authority, folder: Path) -> None:
    wish = Wish(
        "intranet",
        team="search",
        routes=("fast",),
        groups=("board",),
        tags={"app": "intranet"},
        limits=LimitsConfig(requests_per_minute=60, concurrent=2),
        budgets=(BudgetConfig(usd=Decimal("0.000000001"), period="day"), BudgetConfig(usd=Decimal(30))),
    )
    token, made = VirtualKeys(sql).create(wish, CONFIG, by)
    assert Publisher(sql, folder).publish()
    found = Ring.load(folder / SNAPSHOT).find(token)
    assert found == made.policy
    assert found is not None
    assert (found.team, found.routes, found.groups) == ("search", {"fast"}, {"board"})
    assert found.limits == {"requests_per_minute": 60, "concurrent": 2}
    assert found.budgets == ((1, "day"), (30_000_000_000, "month"))
    assert found.scopes == {"gateway"}
    assert stat.S_IMODE((folder / SNAPSHOT).stat().st_mode) == 0o600
    assert token.rpartition("_")[2] not in (folder / SNAPSHOT).read_text()


def test_only_keys_of_this_door_are_published(sql: Sql, folder: Path) -> None:
    other, _ = Keys(sql).create("chat", scopes=["serving"])
    bare, _ = Keys(sql).create("bare", scopes=["gateway", "gateway:ids"])
    Publisher(sql, folder).publish()
    ring = Ring.load(folder / SNAPSHOT)
    assert ring.find(other) is None
    found = ring.find(bare)
    assert found is not None
    assert (found.routes, found.limits, found.budgets, found.team) == (frozenset(), {}, (), None)
    assert "gateway:ids" in found.scopes


def test_a_revoked_key_is_gone_once_the_snapshot_is_written(sql: Sql, by: Authority, folder: Path) -> None:
    token, made = VirtualKeys(sql).create(Wish("a"), CONFIG, by)
    publisher = Publisher(sql, folder)
    publisher.publish()
    ring = Ring.load(folder / SNAPSHOT)
    assert ring.find(token)
    assert not ring.refresh()
    assert not publisher.publish()
    assert VirtualKeys(sql).revoke(made.key.key_id, by).state == "revoked"
    assert publisher.publish()
    assert ring.refresh()
    assert ring.find(token) is None
    with pytest.raises(NotFoundError):
        VirtualKeys(sql).revoke("0" * 16, by)


def test_the_publisher_follows_the_table(sql: Sql, by: Authority, folder: Path) -> None:
    publisher = Publisher(sql, folder, poll_s=0.01)
    publisher.start()
    try:
        token, _ = VirtualKeys(sql).create(Wish("a"), CONFIG, by)
        ring = Ring.load(folder / SNAPSHOT)
        deadline = time.monotonic() + 60
        while ring.find(token) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            ring.refresh()
    finally:
        publisher.stop()


def test_an_expired_key_is_refused_at_once(
    sql: Sql, by: Authority, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiry = datetime.now(UTC) + timedelta(hours=1)
    token, _ = VirtualKeys(sql).create(Wish("a", expires_at=expiry), CONFIG, by)
    Publisher(sql, folder).publish()
    ring = Ring.load(folder / SNAPSHOT)
    assert ring.find(token)
    monkeypatch.setattr(time, "time", expiry.timestamp)
    assert ring.find(token) is None


def test_a_broken_snapshot_leaves_the_old_keys(
    sql: Sql, by: Authority, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token, made = VirtualKeys(sql).create(Wish("a"), CONFIG, by)
    path = folder / SNAPSHOT
    write_snapshot(path, [made.policy])
    ring = Ring.load(path)
    for broken in (b"", b"{", b"[]", b'{"format": 2, "keys": []}', b'{"format": 1, "keys": [{"key_id": 1}]}'):
        path.write_bytes(broken)
        assert not ring.refresh()
        assert ring.find(token) == made.policy
        with pytest.raises(IntegrityError, match="key snapshot"):
            Ring.load(path)
    write_snapshot(path, [replace(made.policy, name="renamed")])
    assert ring.refresh()
    found = ring.find(token.encode())
    assert found is not None
    assert found.name == "renamed"
    path.unlink()
    assert ring.refresh()
    assert ring.find(token) is None


def test_no_snapshot_means_no_keys(folder: Path) -> None:
    ring = Ring.load(folder / SNAPSHOT)
    assert len(ring) == 0
    assert not ring.refresh()


def test_what_the_configuration_lacks_is_refused(sql: Sql, by: Authority) -> None:
    keys = VirtualKeys(sql)
    twice = (BudgetConfig(usd=Decimal(1)), BudgetConfig(usd=Decimal(2)))
    for wish, what in (
        (Wish("a", routes=("fats",)), "no route `fats`"),
        (Wish("a", team="serach"), "no team `serach`"),
        (Wish("a", tags={"a b": "c"}), "is no tag"),
        (Wish("a", budgets=twice), "one budget a period"),
        (Wish(" "), "needs a name"),
    ):
        with pytest.raises(UserError, match=what):
            keys.create(wish, CONFIG, by)
    assert keys.list() == []


@settings(deadline=None, max_examples=50)
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80), st.from_regex(rb"lk_[0-9a-f]{16}_[\w-]{43}")))
def test_anything_but_the_token_is_refused(token: bytes | str) -> None:
    assert Ring([]).find(token) is None

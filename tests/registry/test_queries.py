"""References and listings, in SQLite and PostgreSQL; what a wrong name is told."""

from __future__ import annotations

import pytest
from tests.support.registry_processes import CHAT, passing
from tests.support.registry_rows import seed

from llmops.core.errors import NotFoundError
from llmops.core.names import Ref
from llmops.core.sql import Sql
from llmops.registry import Kind, Version, aliases, evidence, queries
from llmops.registry.aliases import Move


@pytest.fixture
def chats(sql: Sql) -> list[Version]:
    versions = seed(sql, str(CHAT), 3)
    seed(sql, "dev.docs.index", 1, Kind.INDEX)
    with sql.begin() as connection:
        proof = evidence.save(connection, passing(versions[1]))
        aliases.move(connection, [Move(CHAT, "champion", 2, None, proof)], actor="tester")
    return versions


@pytest.mark.parametrize(
    ("ref", "number"), [("dev.docs.chat", 2), ("dev.docs.chat@champion", 2), ("dev.docs.chat/3", 3)]
)
def test_references(sql: Sql, chats: list[Version], ref: str, number: int) -> None:
    with sql.read() as connection:
        found = queries.resolve(connection, Ref.parse(ref))
    assert found.version == number
    assert found.params == {"number": number}
    assert found.aliases == (("champion",) if number == 2 else ())
    assert found.digest == chats[number - 1].digest


@pytest.mark.parametrize(
    ("ref", "code", "hint"),
    [
        ("dev.docs.chat@champon", "unknown_alias", "did you mean `champion`?"),
        ("dev.docs.chat@zzz", "unknown_alias", "its aliases are champion"),
        ("dev.docs.index@old", "unknown_alias", "it has none; name a version: dev.docs.index/1"),
        (
            "dev.docs.index@champion",
            "no_champion",
            "`llmops models history dev.docs.index` tells why; "
            "name a version, such as dev.docs.index/1, or promote one",
        ),
        ("dev.docs.chat/9", "unknown_version", "its latest is dev.docs.chat/3"),
        ("dev.docs.cat", "unknown_asset", "did you mean `dev.docs.chat`?"),
        ("prod.risk.zzzzzzzzz", "unknown_asset", "see `llmops models list`"),
    ],
)
def test_wrong_references_get_the_nearest_right_one(
    sql: Sql, chats: list[Version], ref: str, code: str, hint: str
) -> None:
    with sql.read() as connection, pytest.raises(NotFoundError) as caught:
        queries.resolve(connection, Ref.parse(ref))
    assert (caught.value.error_code, caught.value.hint) == (code, hint)


def test_an_empty_registry_says_how_to_fill_it(sql: Sql) -> None:
    with sql.read() as connection, pytest.raises(NotFoundError) as caught:
        queries.resolve(connection, Ref.parse("dev.docs.chat"))
    assert "llmops ingest" in str(caught.value.hint)


def test_listings_count_and_order(sql: Sql, chats: list[Version]) -> None:
    with sql.read() as connection:
        assets = queries.assets(connection)
        assert [(str(a.name), a.kind, a.versions, a.latest, a.aliases) for a in assets] == [
            ("dev.docs.chat", Kind.CHAIN, 3, 3, {"champion": 2}),
            ("dev.docs.index", Kind.INDEX, 1, 1, {}),
        ]
        assert all(asset.updated_at.tzinfo is not None for asset in assets)
        assert queries.assets(connection, kind=Kind.PROMPT) == []
        every = queries.versions(connection)
        assert [str(version.ref) for version in every] == [
            "dev.docs.chat/3",
            "dev.docs.chat/2",
            "dev.docs.chat/1",
            "dev.docs.index/1",
        ]
        assert queries.versions(connection, kind=Kind.INDEX) == every[3:]
        assert queries.versions(connection, name=CHAT) == every[:3]

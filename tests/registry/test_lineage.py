"""What a version was made of and what rests on it: edges written once, followed both ways, in both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from tests.support.promotions import DEPLOYER, Desk, found
from tests.support.registry_processes import CHAT
from tests.support.registry_rows import seed

from llmops.core.errors import DeniedError, LlmopsError, NotFoundError, UserError
from llmops.core.identity import LOCAL, Principal
from llmops.core.names import Ref
from llmops.core.state import StateConfig
from llmops.registry import Kind, lineage
from llmops.registry.access import Grants, Privilege
from llmops.registry.authority import Authority
from llmops.registry.lineage import Edge, Relation, dataset, node


@pytest.fixture
def desk(sql_state: StateConfig) -> Iterator[Desk]:
    with Desk(sql_state) as opened:
        opened.seed()
        for name, kind in (("dev.docs.prompt", Kind.PROMPT), ("dev.docs.index", Kind.INDEX)):
            seed(opened.sql, name, 2, kind)
        yield opened


def chain_of(desk: Desk) -> None:
    """Two chains over one index, a prompt each; one is served under its alias."""
    first, second = f"{CHAT}/1", f"{CHAT}/2"
    desk.link(
        [
            Edge("dev.docs.prompt/1", Relation.PROMPT, first),
            Edge("dev.docs.prompt/2", Relation.PROMPT, second),
            Edge("dev.docs.index/1", Relation.INDEX, first, {"generation": "g1"}),
            Edge("dev.docs.index/1", Relation.INDEX, second, {"generation": "g1"}),
            dataset("dev.docs.pages", 7, "d" * 64, "dev.docs.index/1"),
            Edge(f"{CHAT}@champion", Relation.SERVED_BY, node("endpoint", "chat")),
        ]
    )


def test_sources_are_found_nearest_first(desk: Desk) -> None:
    chain_of(desk)
    assert [(item.depth, item.edge.relation, item.node) for item in desk.lineage(f"{CHAT}/2")] == [
        (1, "index", "dev.docs.index/1"),
        (1, "prompt", "dev.docs.prompt/2"),
        (2, "dataset", "dataset:dev.docs.pages@7"),
    ]
    assert desk.lineage(f"{CHAT}/2")[0].edge.detail == {"generation": "g1"}
    assert desk.lineage(f"{CHAT}/3") == []


def test_impact_reaches_chains_and_endpoints_through_the_alias(desk: Desk) -> None:
    chain_of(desk)
    reached = [item.node for item in desk.lineage("dataset:dev.docs.pages@7", impact=True)]
    assert reached == ["dev.docs.index/1", f"{CHAT}/1", f"{CHAT}/2"]
    one = desk.resolve(f"{CHAT}/1")
    desk.point("champion", one.ref, found(one), etag=None)
    reached = desk.lineage("dev.docs.prompt/1", impact=True)
    assert [(item.depth, item.node, item.aliases) for item in reached] == [
        (1, f"{CHAT}/1", ("champion",)),
        (2, "endpoint:chat", ()),
    ]
    assert [item.node for item in desk.lineage("dev.docs.prompt/2", impact=True)] == [f"{CHAT}/2"]
    assert [item.node for item in desk.lineage("endpoint:chat")][:2] == [f"{CHAT}@champion", "dev.docs.index/1"]


def test_an_edge_is_written_once_and_never_changed(desk: Desk) -> None:
    chain_of(desk)
    chain_of(desk)
    with desk.sql.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM lineage_edges")).scalar() == 6
    for change in ("UPDATE lineage_edges SET upstream = 'x'", "DELETE FROM lineage_edges"):
        with pytest.raises(LlmopsError, match="append-only"), desk.sql.begin() as connection:
            connection.execute(text(change))


def test_a_loop_ends(desk: Desk) -> None:
    desk.link([Edge("run:a", Relation.RUN, "run:b"), Edge("run:b", Relation.RUN, "run:a")])
    assert [item.node for item in desk.lineage("run:a")] == ["run:b"]


@pytest.mark.parametrize(
    ("edge", "told"),
    [
        (Edge("run:a", Relation.RUN, "run:a"), "from one node to another"),
        (Edge("", Relation.RUN, "run:a"), "1 to 500"),
        (Edge("dev.docs.chat/x", Relation.PROMPT, "run:a"), "names no version"),
    ],
)
def test_an_edge_is_checked(desk: Desk, edge: Edge, told: str) -> None:
    with pytest.raises(UserError, match=told):
        desk.link([edge])


def test_unknown_nodes_are_told(desk: Desk) -> None:
    with pytest.raises(NotFoundError, match="no version was made of `run:x`"):
        desk.lineage("run:x")
    with pytest.raises(NotFoundError, match="no version 9"):
        desk.lineage(f"{CHAT}/9")


def test_only_who_makes_versions_writes_their_lineage(desk: Desk) -> None:
    Grants(desk.sql, Authority(LOCAL, desk.authority.access, desk.audit)).grant(
        Privilege.ALL_PRIVILEGES, "dev", to=DEPLOYER.id
    )
    desk.authority = Authority(Principal("mallory", "key"), desk.authority.access, desk.audit)
    with pytest.raises(DeniedError, match="mallory lacks"):
        chain_of(desk)


def test_a_runs_edges_name_its_data_and_code() -> None:
    edges = lineage.of_run(Ref(CHAT, version=1), "r1", [("payments", "abc", "delta:payments")], "9f2c")
    assert [(edge.upstream, edge.relation) for edge in edges] == [
        ("run:r1", "run"),
        ("dataset:payments@abc", "dataset"),
        ("code:9f2c", "code"),
    ]

"""What each version was made of, and what was made of it: edges between nodes, followed either way.

A node is a version (`dev.docs.chat/3`), an alias that something follows (`dev.docs.chat@champion`), or a thing kept
elsewhere, named by `node` (`run:…`, `dataset:dev.fraud.payments@7`, `code:9f2c…`, `endpoint:chat`). Knows edges; how
any kind comes to be is told by those who make it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from llmops.core.errors import UserError
from llmops.core.ids import new_id
from llmops.core.names import Name, Ref
from llmops.registry import tables


class Relation(StrEnum):
    """What the upstream node is to the downstream one."""

    RUN = "run"
    DATASET = "dataset"
    PROMPT = "prompt"
    INDEX = "index"
    BASE_MODEL = "base_model"
    CODE = "code"
    FEATURE = "feature"
    COPIED_FROM = "copied_from"
    SERVED_BY = "served_by"


@dataclass(frozen=True)
class Edge:
    """One relation between two nodes. `detail` says what the node's name does not: a digest, a table's version."""

    upstream: str
    relation: Relation
    downstream: str
    detail: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None
    by: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "upstream": self.upstream,
            "relation": self.relation.value,
            "downstream": self.downstream,
            "detail": self.detail,
            "at": self.at.isoformat() if self.at else None,
            "by": self.by,
        }


@dataclass(frozen=True)
class Found:
    """An edge met on a walk: how far from the start, the node it led to, and the aliases that node holds now."""

    depth: int
    node: str
    edge: Edge
    aliases: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"depth": self.depth, "node": self.node, "aliases": list(self.aliases), **self.edge.as_json()}


def node(relation: Relation | str, name: str, version: str | None = None) -> str:
    """The name of a node that is no version: `node("dataset", "dev.fraud.payments", "7")`."""
    return f"{relation}:{name}" if version is None else f"{relation}:{name}@{version}"


def dataset(table: str, version: str | int, digest: str, downstream: Ref | str) -> Edge:
    """A version was made from these rows."""
    detail = {"table": table, "version": str(version), "digest": digest}
    return Edge(node(Relation.DATASET, table, str(version)), Relation.DATASET, str(downstream), detail)


@dataclass(frozen=True)
class RunPlace:
    """A run, and the catalog whose tracking store holds it."""

    catalog: str
    run_id: str


def of_run(ref: Ref, run_id: str, datasets: Iterable[tuple[str, str, str]], revision: str | None) -> list[Edge]:
    """The edges from a run, the data sets it logged (name, digest, source) and its code to the version it made."""
    edges = [Edge(node(Relation.RUN, run_id), Relation.RUN, str(ref), {"catalog": ref.name.catalog})]
    for name, digest, source in datasets:
        detail = {"table": name, "digest": digest, "source": source}
        edges.append(Edge(node(Relation.DATASET, name, digest), Relation.DATASET, str(ref), detail))
    if revision:
        edges.append(Edge(node(Relation.CODE, revision), Relation.CODE, str(ref)))
    return edges


def has(connection: Connection, downstream: str, relation: Relation) -> bool:
    """Whether a node has an upstream of this kind."""
    return any(edge.relation is relation for edge in _edges(connection, [downstream], up=True))


def run_of(connection: Connection, ref: Ref) -> RunPlace | None:
    """The run that made a version, or what it was copied from."""
    for found in sources(connection, str(ref)):
        if found.edge.relation is Relation.RUN:
            return RunPlace(str(found.edge.detail["catalog"]), found.node.removeprefix(f"{Relation.RUN}:"))
    return None


def add(connection: Connection, edges: Iterable[Edge], *, actor: str) -> None:
    """Write edges down; one that is there already stays as it is.

    Raises:
        UserError: a node's name is empty or too long, or an edge leads from a node to itself.
    """
    for edge in edges:
        if not known(connection, edge):
            connection.execute(
                insert(tables.lineage_edges).values(
                    edge_id=new_id(),
                    upstream=edge.upstream,
                    relation=edge.relation.value,
                    downstream=edge.downstream,
                    detail=edge.detail,
                    at=datetime.now(UTC),
                    by=actor,
                )
            )


def known(connection: Connection, edge: Edge) -> bool:
    """Whether this edge is written down already.

    Raises:
        UserError: as `add`.
    """
    _check(edge)
    columns = tables.lineage_edges.c
    query = select(columns.edge_id).where(
        columns.downstream == edge.downstream,
        columns.relation == edge.relation.value,
        columns.upstream == edge.upstream,
    )
    return connection.execute(query).first() is not None


def sources(connection: Connection, start: str) -> list[Found]:
    """Everything a node was made of, nearest first."""
    return _walk(connection, start, up=True)


def impact(connection: Connection, start: str) -> list[Found]:
    """Everything that rests on a node, nearest first: what a change of it, or a fault in it, would reach."""
    return _walk(connection, start, up=False)


def creators(connection: Connection, ref: Ref) -> frozenset[str]:
    """Who made a version: whoever registered it, and whoever registered what it was copied from."""
    found: set[str] = set()
    queue, seen = deque([ref]), {str(ref)}
    while queue:
        here = queue.popleft()
        found |= set(
            connection.execute(
                select(tables.versions.c.created_by).where(
                    tables.versions.c.name == str(here.name), tables.versions.c.version == here.version
                )
            ).scalars()
        )
        for edge in _edges(connection, [str(here)], up=True):
            if edge.relation is Relation.COPIED_FROM and edge.upstream not in seen:
                seen.add(edge.upstream)
                queue.append(Ref.parse(edge.upstream))
    return frozenset(found)


def _walk(connection: Connection, start: str, *, up: bool) -> list[Found]:
    """Breadth first, each node once, so that a loop in what was written ends."""
    found: list[Found] = []
    layer, seen, depth = [start], {start}, 0
    while layer:
        depth += 1
        reached = []
        for edge in _edges(connection, _same(connection, layer, up=up), up=up):
            node_ = edge.upstream if up else edge.downstream
            if node_ in seen:
                continue
            seen.add(node_)
            reached.append(node_)
            found.append(Found(depth, node_, edge, _held(connection, node_)))
        layer = reached
    return found


def _same(connection: Connection, layer: Sequence[str], *, up: bool) -> list[str]:
    """The nodes of a layer under all their names: a version answers to its aliases, an alias leads to its version."""
    names = list(layer)
    for name in layer:
        if up and (version := _version_of(connection, name)):
            names.append(version)
        elif not up and (ref := _ref(name)) is not None and ref.version is not None:
            names += [f"{ref.name}@{alias}" for alias in _held(connection, name)]
    return names


def _held(connection: Connection, name: str) -> tuple[str, ...]:
    """The aliases that point at a node, where it is a version."""
    ref = _ref(name)
    if ref is None or ref.version is None:
        return ()
    columns = tables.aliases.c
    query = select(columns.alias).where(columns.name == str(ref.name), columns.version == ref.version)
    return tuple(connection.execute(query.order_by(columns.alias)).scalars())


def _version_of(connection: Connection, name: str) -> str | None:
    ref = _ref(name)
    if ref is None or ref.alias is None:
        return None
    columns = tables.aliases.c
    number = connection.execute(
        select(columns.version).where(columns.name == str(ref.name), columns.alias == ref.alias)
    ).scalar()
    return None if number is None else f"{ref.name}/{number}"


def _edges(connection: Connection, nodes: Sequence[str], *, up: bool) -> list[Edge]:
    columns = tables.lineage_edges.c
    here = columns.downstream if up else columns.upstream
    query = select(tables.lineage_edges).where(here.in_(list(nodes))).order_by(columns.relation, columns.edge_id)
    return [_edge(row) for row in connection.execute(query)]


def _edge(row: Row[Any]) -> Edge:
    return Edge(row.upstream, Relation(row.relation), row.downstream, row.detail, row.at, row.by)


def _ref(name: str) -> Ref | None:
    """The version or alias a node is; None for a thing kept elsewhere."""
    if ":" in name or not ("/" in name or "@" in name):
        return None
    return Ref.parse(name)


def _check(edge: Edge) -> None:
    for name in (edge.upstream, edge.downstream):
        if not name or len(name) > 500:
            raise UserError("a node's name has 1 to 500 characters", where=name[:80])
        _ref(name)
    if edge.upstream == edge.downstream:
        raise UserError("an edge leads from one node to another", where=edge.upstream)


def version_in(name: str) -> Ref | None:
    """The version that a node is, None for every other."""
    ref = _ref(name)
    return ref if ref is not None and ref.version is not None else None


def exists(connection: Connection, name: str) -> bool:
    """Whether anything is known about a node."""
    columns = tables.lineage_edges.c
    query = select(columns.edge_id).where((columns.upstream == name) | (columns.downstream == name)).limit(1)
    return connection.execute(query).first() is not None


def of_asset(connection: Connection, name: Name) -> list[Edge]:
    """The edges that lead into any version of an asset."""
    columns = tables.lineage_edges.c
    query = select(tables.lineage_edges).where(columns.downstream.startswith(f"{name}/", autoescape=True))
    return [_edge(row) for row in connection.execute(query.order_by(columns.edge_id))]

"""The alias of record: one SQL row each, moved by compare-and-set, never without evidence, every move kept.

Knows rows and races. Whether a move is deserved is for the evidence and whoever gathered it; MLflow's copies of the
aliases are `projection`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from llmops.core.errors import ConflictError, NotFoundError, UserError
from llmops.core.names import Name, Ref
from llmops.registry import tables
from llmops.registry.records import Alias
from llmops.registry.sequence import mark, next_id


@dataclass(frozen=True)
class Move:
    """Point `alias` of `name` to `version` (None: take it away).

    `etag` is the alias's as last read, None where it was seen not to exist.
    """

    name: Name
    alias: str
    version: int | None
    etag: str | None
    evidence_id: str


@dataclass(frozen=True)
class Moved:
    """One line of an alias's history."""

    name: Name
    alias: str
    version: int | None
    previous_version: int | None
    evidence_id: str
    moved_at: datetime
    moved_by: str
    move_id: str = ""

    def as_json(self) -> dict[str, Any]:
        """The move as `llmops models history --json` prints it."""
        return {
            "name": str(self.name),
            "alias": self.alias,
            "version": self.version,
            "previous_version": self.previous_version,
            "evidence_id": self.evidence_id,
            "moved_at": self.moved_at.isoformat(),
            "moved_by": self.moved_by,
        }


def read(connection: Connection, name: Name, alias: str) -> Alias | None:
    """The alias as it stands, None where there is none."""
    row = connection.execute(
        select(tables.aliases).where(tables.aliases.c.name == str(name), tables.aliases.c.alias == alias)
    ).first()
    return None if row is None else _alias(row)


def move(connection: Connection, moves: Sequence[Move], *, actor: str) -> list[Alias]:
    """Make all moves in the caller's transaction, or none: each only if its alias is still what its mover saw.

    Returns:
        The aliases as they stand now, without those taken away.

    Raises:
        ConflictError: somebody moved one of them first, or the version it should point to is not registered.
        NotFoundError: no such evidence.
    """
    for step in moves:
        Ref.parse(f"{step.name}@{step.alias}")
        _require_evidence(connection, step)
    moved = [alias for step in moves if (alias := _move(connection, step, actor)) is not None]
    for name in {step.name for step in moves}:
        mark(connection, name)
    return moved


def history(connection: Connection, name: Name, alias: str | None = None) -> list[Moved]:
    """Every move of a name's aliases, newest first."""
    moves = tables.alias_moves.c
    query = select(tables.alias_moves).where(moves.name == str(name)).order_by(moves.move_id.desc())
    if alias is not None:
        query = query.where(moves.alias == alias)
    return [
        Moved(
            name,
            row.alias,
            row.version,
            row.previous_version,
            row.evidence_id,
            row.moved_at,
            row.moved_by,
            row.move_id,
        )
        for row in connection.execute(query)
    ]


def _move(connection: Connection, step: Move, actor: str) -> Alias | None:
    before = read(connection, step.name, step.alias)
    values = {
        "version": step.version,
        "etag": next_id(connection, step.name),
        "evidence_id": step.evidence_id,
        "moved_at": datetime.now(UTC),
        "moved_by": actor,
    }
    if not _swap(connection, step, values):
        _lost(step, read(connection, step.name, step.alias))
    connection.execute(
        insert(tables.alias_moves).values(
            move_id=values["etag"],
            name=str(step.name),
            alias=step.alias,
            version=step.version,
            previous_version=None if before is None else before.version,
            evidence_id=step.evidence_id,
            moved_at=values["moved_at"],
            moved_by=actor,
        )
    )
    return read(connection, step.name, step.alias)


def _swap(connection: Connection, step: Move, values: dict[str, Any]) -> bool:
    """The compare-and-set itself: one statement, so that it also holds between transactions that see the same past."""
    table = tables.aliases
    if step.etag is None:
        if step.version is None:
            raise UserError("an alias that is not there can't be taken away", where=f"{step.name}@{step.alias}")
        if read(connection, step.name, step.alias) is not None:
            return False
        # Two first movers meet in the primary key; `Sql.begin` says it as a ConflictError.
        connection.execute(insert(table).values(name=str(step.name), alias=step.alias, **values))
        return True
    here = (table.c.name == str(step.name)) & (table.c.alias == step.alias) & (table.c.etag == step.etag)
    changed = delete(table).where(here) if step.version is None else update(table).where(here).values(**values)
    return connection.execute(changed).rowcount == 1


def _require_evidence(connection: Connection, step: Move) -> None:
    row = connection.execute(
        select(tables.evidence.c.name, tables.evidence.c.version, tables.evidence.c.verdict).where(
            tables.evidence.c.evidence_id == step.evidence_id
        )
    ).first()
    if row is None:
        raise NotFoundError(f"no evidence `{step.evidence_id}`", where=f"{step.name}@{step.alias}")
    if row.name != str(step.name) or (step.version is not None and row.version != step.version):
        raise UserError(
            f"this evidence speaks of {row.name}/{row.version}, not of {step.name}/{step.version}",
            where=f"{step.name}@{step.alias}",
        )
    if row.verdict != "pass" and step.version is not None:
        raise UserError(
            f"this evidence's verdict is `{row.verdict}`; an alias moves to a version on `pass` only",
            where=f"{step.name}@{step.alias}",
        )


def _lost(step: Move, now: Alias | None) -> None:
    what = "somebody took it away" if now is None else f"{now.moved_by} pointed it to version {now.version}"
    raise ConflictError(
        f"the alias moved meanwhile: {what}",
        where=f"{step.name}@{step.alias}",
        hint="look at it again (llmops models show), then decide anew",
    )


def _alias(row: Row[Any]) -> Alias:
    return Alias(Name.parse(row.name), row.alias, row.version, row.etag, row.evidence_id, row.moved_at, row.moved_by)

"""Promotions as rows: read, opened, and moved by compare-and-set, each move with its step.

Knows SQL. Whether a move is right is decided before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, case, insert, select, update

from llmops.core.errors import ConflictError, NotFoundError
from llmops.core.names import Name
from llmops.registry import sequence
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.records import Promotion, Taken
from llmops.registry.promotion.states import EDGES, State
from llmops.registry.promotion.tables import promotions, steps
from llmops.registry.records import Version


@dataclass(frozen=True)
class Change:
    """A change of state, as it is written down."""

    to: State
    step: int = 0
    evidence: tuple[str, ...] = ()
    why: str = ""


def read(connection: Connection, promotion_id: str) -> Promotion:
    """One promotion.

    Raises:
        NotFoundError: there is none of this id.
    """
    row = connection.execute(select(promotions).where(promotions.c.promotion_id == promotion_id)).first()
    if row is None:
        raise NotFoundError(f"no promotion `{promotion_id}`")
    return _promotion(connection, row)


def newest(connection: Connection, name: Name, version: int, state: State | None = None) -> Promotion | None:
    """The last promotion of a version, or the last in a given state; None where there is none."""
    here = promotions.c
    query = select(promotions).where(here.name == str(name), here.version == version)
    if state is not None:
        query = query.where(here.state == state.value)
    row = connection.execute(query.order_by(here.promotion_id.desc()).limit(1)).first()
    return None if row is None else _promotion(connection, row)


def standing(connection: Connection, name: Name, version: int) -> Promotion | None:
    """The promotion that tells where a version stands: while it is champion the one that made it so, else the last."""
    return newest(connection, name, version, State.PROMOTED) or newest(connection, name, version)


def every(connection: Connection, name: Name | None = None) -> list[Promotion]:
    """Where each version stands, those that changed last first."""
    here = promotions.c
    crowned = case((here.state == State.PROMOTED.value, 1), else_=0)
    query = select(promotions).order_by(here.name, here.version, crowned.desc(), here.promotion_id.desc())
    if name is not None:
        query = query.where(here.name == str(name))
    first = {(row.name, row.version): row for row in reversed(connection.execute(query).all())}
    return [_promotion(connection, row) for row in sorted(first.values(), key=lambda row: row.etag, reverse=True)]


def steps_of(connection: Connection, name: Name) -> list[Taken]:
    """Every step of every promotion of an asset, oldest first."""
    query = select(steps).where(steps.c.name == str(name)).order_by(steps.c.step_id)
    return [_taken(row) for row in connection.execute(query)]


def begin(connection: Connection, version: Version, policy: Policy, *, actor: str) -> Promotion:
    """Write a new promotion down, as REGISTERED."""
    now, number = datetime.now(UTC), sequence.next_id(connection, version.name)
    connection.execute(
        insert(promotions).values(
            promotion_id=number,
            name=str(version.name),
            version=version.version,
            digest=version.digest,
            state=State.REGISTERED.value,
            step=0,
            etag=number,
            policy=policy.as_json(),
            started_at=now,
            started_by=actor,
            changed_at=now,
            changed_by=actor,
        )
    )
    return read(connection, number)


def swap(connection: Connection, promotion: Promotion, change: Change, *, actor: str) -> Promotion:
    """Move a promotion's state, only if it is still as its mover saw it, and write the step down.

    Raises:
        ConflictError: somebody moved it first.
    """
    if change.to not in EDGES[promotion.state]:
        raise AssertionError(f"no edge leads from {promotion.state} to {change.to}")
    now, etag = datetime.now(UTC), sequence.next_id(connection, promotion.name)
    held = change.to is State.HELD
    here = (promotions.c.promotion_id == promotion.promotion_id) & (promotions.c.etag == promotion.etag)
    values = {
        "state": change.to.value,
        "step": promotion.step if held else change.step,
        "held_from": promotion.state.value if held else None,
        "evidence_id": change.evidence[-1] if change.evidence else promotion.evidence_id,
        "etag": etag,
        "changed_at": now,
        "changed_by": actor,
    }
    if connection.execute(update(promotions).where(here).values(values)).rowcount != 1:
        raise _lost(read(connection, promotion.promotion_id))
    connection.execute(
        insert(steps).values(
            step_id=etag,
            promotion_id=promotion.promotion_id,
            name=str(promotion.name),
            version=promotion.version,
            before=promotion.state.value,
            after=change.to.value,
            step=values["step"],
            evidence=list(change.evidence),
            why=change.why,
            at=now,
            by=actor,
        )
    )
    return read(connection, promotion.promotion_id)


def unmoved(connection: Connection, promotion: Promotion) -> bool:
    """Whether a promotion is still as it was read."""
    return read(connection, promotion.promotion_id).etag == promotion.etag


def same(connection: Connection, promotion: Promotion) -> None:
    """Pass only a promotion that is still as it was read.

    Raises:
        ConflictError: somebody moved it first.
    """
    now = read(connection, promotion.promotion_id)
    if now.etag != promotion.etag:
        raise _lost(now)


def _lost(now: Promotion) -> ConflictError:
    return ConflictError(
        f"{now.changed_by} moved this promotion meanwhile: it is {now.state.phrase}",
        where=str(now.ref),
        hint="look at it again (llmops rollout status), then decide anew",
    )


def _promotion(connection: Connection, row: Row[Any]) -> Promotion:
    query = select(steps.c.why).where(steps.c.step_id == row.etag)
    return Promotion(
        promotion_id=row.promotion_id,
        name=Name.parse(row.name),
        version=row.version,
        digest=row.digest,
        state=State(row.state),
        step=row.step,
        held_from=State(row.held_from) if row.held_from else None,
        evidence_id=row.evidence_id,
        etag=row.etag,
        policy=Policy.model_validate(row.policy),
        started_at=row.started_at,
        started_by=row.started_by,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
        why=connection.execute(query).scalar() or "",
    )


def _taken(row: Row[Any]) -> Taken:
    values = row._asdict()
    values.pop("name")
    values |= {"before": State(row.before), "after": State(row.after), "evidence": tuple(row.evidence)}
    return Taken(**values)

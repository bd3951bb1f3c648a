"""Taking a promotion back: the previous champion is champion again, for a reason that somebody gave.

Knows how far back one can go: each rollback undoes the promotion that made today's champion, so a second one goes one
champion further, never forward. Asked twice for the same thing, it does it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from llmops.core.errors import NotFoundError, UserError
from llmops.core.names import Name
from llmops.registry import aliases, evidence, queries, sequence
from llmops.registry.aliases import Move, Moved
from llmops.registry.authority import Authority
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.promotion import effects, rows
from llmops.registry.promotion.effects import PREVIOUS
from llmops.registry.promotion.states import State
from llmops.registry.records import Alias, Version

GATE = "rollback"


@dataclass(frozen=True)
class Rollback:
    """A rollback as it was done. `again` is true where it had been done before, and this call changed nothing."""

    name: Name
    from_version: int
    to_version: int
    reason: str
    evidence_id: str
    at: datetime
    by: str
    again: bool = False

    def as_json(self) -> dict[str, Any]:
        """The rollback as `llmops rollback --json` prints it."""
        return {
            "name": str(self.name),
            "from_version": self.from_version,
            "to_version": self.to_version,
            "reason": self.reason,
            "evidence_id": self.evidence_id,
            "at": self.at.isoformat(),
            "by": self.by,
            "again": self.again,
        }


@dataclass(frozen=True)
class Planned:
    """What a rollback would do now."""

    champion: Version
    previous: Version
    further: int | None

    def as_json(self) -> dict[str, Any]:
        return {
            "name": str(self.champion.name),
            "from_version": self.champion.version,
            "to_version": self.previous.version,
            "previous_champion": self.further,
        }


def plan(connection: Connection, name: Name) -> Planned:
    """What a rollback would do.

    Raises:
        NotFoundError: nobody is champion.
        UserError: the champion is the first one.
    """
    _, champion, previous = _holders(connection, name)
    return Planned(champion, previous, _before(connection, name, previous.version))


def done_before(connection: Connection, name: Name, reason: str, from_version: int | None) -> Rollback | None:
    """The rollback that a repeated call means: the champion's last move, for the same reason or from that version.

    Raises:
        ConflictError: `from_version` is not champion, and was not rolled back last.
    """
    moves = aliases.history(connection, name, CHAMPION)
    last = moves[0] if moves else None
    record = evidence.load(connection, last.evidence_id) if last else None
    if last is not None and record is not None and record.gate == GATE:
        same = last.previous_version == from_version
        if same or (from_version is None and record.method.params.get("reason") == reason):
            return _told(last, str(record.method.params.get("reason", "")))
    effects.require_reigning(last, name, from_version)
    return None


def undo(connection: Connection, name: Name, reason: str, authority: Authority) -> Rollback:
    """Make the previous champion champion, in the caller's transaction.

    Raises:
        NotFoundError: nobody is champion.
        UserError: the champion is the first one: there is nothing to go back to.
    """
    sequence.lock(connection, name)
    authority.require_alias(connection, name, CHAMPION)
    held, champion, previous = _holders(connection, name)
    actor, params = authority.actor, {"reason": reason}
    proof = evidence.save(connection, effects.decision(previous, GATE, params, actor=actor, baseline=champion))
    moves = [Move(name, CHAMPION, previous.version, held.etag, proof), _kept(connection, name, previous, proof, actor)]
    aliases.move(connection, moves, actor=actor)
    _settle(connection, champion, previous, (reason, proof), actor)
    return _told(aliases.history(connection, name, CHAMPION)[0], reason, again=False)


def _holders(connection: Connection, name: Name) -> tuple[Alias, Version, Version]:
    champion, previous = (effects.pointed(connection, name, alias) for alias in (CHAMPION, PREVIOUS))
    if champion is None:
        queries.require_asset(connection, name)
        raise NotFoundError(f"`{name}` has no champion to roll back", hint=f"llmops models history {name}")
    if previous is None:
        raise UserError(
            f"`{name}` has no champion before version {champion.version}",
            where=f"{name}@{PREVIOUS}",
            hint="there is nothing to go back to; promote another version",
            code="no_previous_champion",
        )
    versions = (queries.version(connection, name, held.version) for held in (champion, previous))
    return (champion, *versions)  # type: ignore[return-value]  # mypy loses the length of a generator


def _kept(connection: Connection, name: Name, previous: Version, proof: str, actor: str) -> Move:
    """Who is previous champion afterwards: whoever was champion before the one that is restored."""
    held = effects.pointed(connection, name, PREVIOUS)
    assert held is not None  # `_holders` saw it in this transaction
    further = _before(connection, name, previous.version)
    if further is None:
        return Move(name, PREVIOUS, None, held.etag, proof)
    older = queries.version(connection, name, further)
    record = effects.decision(
        older, effects.SUCCESSION, {"replaced_by": str(previous.ref)}, actor=actor, baseline=previous, parents=(proof,)
    )
    return Move(name, PREVIOUS, further, held.etag, evidence.save(connection, record))


def _before(connection: Connection, name: Name, version: int) -> int | None:
    """Who was champion before the last time this version became it by a promotion."""
    reigns = _reigns(connection, name)[:-1]
    if version not in reigns:
        return None
    at = len(reigns) - 1 - reigns[::-1].index(version)
    return reigns[at - 1] if at else None


def _reigns(connection: Connection, name: Name) -> list[int]:
    """The champions one after the other, without those that were rolled back."""
    reigns: list[int] = []
    for moved in reversed(aliases.history(connection, name, CHAMPION)):
        if moved.version is None:
            reigns.clear()
            continue
        if reigns and evidence.gate_of(connection, moved.evidence_id) == GATE:
            reigns.pop()
        if not reigns or reigns[-1] != moved.version:
            reigns.append(moved.version)
    return reigns


def _settle(connection: Connection, fallen: Version, restored: Version, why: tuple[str, str], actor: str) -> None:
    """Let the promotions of both versions say what became of them; one under way has nothing left to do."""
    reason, proof = why
    changes = [
        (rows.newest(connection, fallen.name, fallen.version, State.PROMOTED), State.ROLLED_BACK, reason),
        (rows.newest(connection, restored.name, restored.version, State.RETIRED), State.PROMOTED, reason),
    ]
    under_way = rows.newest(connection, restored.name, restored.version)
    if under_way is not None and not under_way.ended:
        changes.append((under_way, State.WITHDRAWN, "a rollback made it champion"))
    for promotion, to, because in changes:
        if promotion is not None:
            rows.swap(connection, promotion, rows.Change(to, evidence=(proof,), why=because), actor=actor)


def _told(moved: Moved, reason: str, *, again: bool = True) -> Rollback:
    assert moved.version is not None  # a rollback never takes champion away
    assert moved.previous_version is not None
    return Rollback(
        moved.name,
        moved.previous_version,
        moved.version,
        reason,
        moved.evidence_id,
        moved.moved_at,
        moved.moved_by,
        again,
    )

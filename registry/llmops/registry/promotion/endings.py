"""Ending without a successor: a promotion that is under way is withdrawn, a champion retired; each for a given reason.

Knows what goes with each: a withdrawn version is challenger no more; a retired champion leaves nobody in its place, and
nobody to roll back to. Asked twice for the same thing, it does it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from llmops.core.errors import NotFoundError, UserError
from llmops.core.names import Name
from llmops.registry import aliases, evidence, queries, sequence
from llmops.registry.access import Privilege
from llmops.registry.aliases import Move, Moved
from llmops.registry.authority import Authority
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.promotion import effects, rows
from llmops.registry.promotion.effects import PREVIOUS
from llmops.registry.promotion.records import Promotion
from llmops.registry.promotion.states import State
from llmops.registry.records import Version

WITHDRAWAL = "withdrawal"
RETIREMENT = "retirement"


@dataclass(frozen=True)
class Retirement:
    """A champion taken out of service. `again` is true where it had been before, and this call changed nothing."""

    name: Name
    version: int
    reason: str
    evidence_id: str
    at: datetime
    by: str
    again: bool = False

    @property
    def to_version(self) -> None:
        """Nobody follows, where a rollback names who does."""
        return None

    def as_json(self) -> dict[str, Any]:
        """The retirement as `llmops rollback --retire --json` prints it."""
        return {
            "name": str(self.name),
            "from_version": self.version,
            "to_version": self.to_version,
            "reason": self.reason,
            "evidence_id": self.evidence_id,
            "at": self.at.isoformat(),
            "by": self.by,
            "again": self.again,
        }


def under_way(connection: Connection, version: Version) -> Promotion:
    """The promotion that a withdrawal would end.

    Raises:
        NotFoundError: the version was never promoted.
        UserError: its promotion has ended.
    """
    promotion = rows.newest(connection, version.name, version.version)
    if promotion is None:
        raise NotFoundError(f"`{version.ref}` is not being promoted", hint=f"llmops promote {version.ref}")
    if promotion.ended:
        raise UserError(
            f"this promotion has ended: it is {promotion.state.phrase}",
            where=str(version.ref),
            hint=_HINTS.get(promotion.state),
            code="promotion_ended",
        )
    return promotion


def withdrawn_before(connection: Connection, version: Version, reason: str) -> Promotion | None:
    """The promotion that a repeated call means: the version's last one, withdrawn for the same reason."""
    last = rows.newest(connection, version.name, version.version)
    return last if last is not None and (last.state, last.why) == (State.WITHDRAWN, reason) else None


def withdraw(connection: Connection, version: Version, reason: str, authority: Authority) -> Promotion:
    """End a version's promotion in the caller's transaction; what users meet stays as it is.

    Raises:
        NotFoundError, UserError: as `under_way`.
        DeniedError: the principal may not promote here.
    """
    sequence.lock(connection, version.name)
    authority.require_writer(connection, version.name)
    authority.require(connection, Privilege.APPLY_TAG, version.name)
    promotion = under_way(connection, version)
    params = {"promotion_id": promotion.promotion_id, "reason": reason}
    record = effects.decision(version, WITHDRAWAL, params, actor=authority.actor, verdict="inconclusive")
    proof = evidence.save(connection, record)
    aliases.move(connection, effects.leaving(connection, promotion, proof), actor=authority.actor)
    change = rows.Change(State.WITHDRAWN, evidence=(proof,), why=reason)
    return rows.swap(connection, promotion, change, actor=authority.actor)


def reigning(connection: Connection, name: Name) -> Version:
    """The champion that a retirement would take away.

    Raises:
        NotFoundError: nobody is champion.
    """
    held = effects.pointed(connection, name, CHAMPION)
    if held is None:
        raise NotFoundError(f"`{name}` has no champion to retire", hint=f"llmops models history {name}")
    return queries.version(connection, name, held.version)


def retired_before(connection: Connection, name: Name, reason: str, from_version: int | None) -> Retirement | None:
    """The retirement that a repeated call means: the champion's last move, for the same reason or of that version.

    Raises:
        ConflictError: `from_version` is not champion, and was not retired last.
    """
    moves = aliases.history(connection, name, CHAMPION)
    last = moves[0] if moves else None
    if last is not None and last.version is None:
        record = evidence.load(connection, last.evidence_id)
        said = str(record.method.params.get("reason", ""))
        same = last.previous_version == from_version if from_version is not None else said == reason
        if record.gate == RETIREMENT and same:
            return _told(last, said, again=True)
    effects.require_reigning(last, name, from_version)
    return None


def retire(connection: Connection, name: Name, reason: str, authority: Authority) -> Retirement:
    """Take the champion out of service in the caller's transaction, and with it whoever it could be rolled back to.

    Raises:
        NotFoundError: nobody is champion.
        DeniedError: the principal may not move champion.
    """
    sequence.lock(connection, name)
    authority.require_alias(connection, name, CHAMPION)
    champion = reigning(connection, name)
    params = {"reason": reason}
    record = effects.decision(champion, RETIREMENT, params, actor=authority.actor, verdict="inconclusive")
    proof = evidence.save(connection, record)
    held = [effects.pointed(connection, name, alias) for alias in (CHAMPION, PREVIOUS)]
    moves = [Move(name, alias.alias, None, alias.etag, proof) for alias in held if alias is not None]
    aliases.move(connection, moves, actor=authority.actor)
    crowned = rows.newest(connection, name, champion.version, State.PROMOTED)
    if crowned is not None:
        change = rows.Change(State.RETIRED, evidence=(proof,), why=reason)
        rows.swap(connection, crowned, change, actor=authority.actor)
    return _told(aliases.history(connection, name, CHAMPION)[0], reason, again=False)


def _told(moved: Moved, reason: str, *, again: bool) -> Retirement:
    assert moved.previous_version is not None  # it was taken from somebody
    return Retirement(
        moved.name, moved.previous_version, reason, moved.evidence_id, moved.moved_at, moved.moved_by, again
    )


_HINTS = {
    State.PROMOTED: "`llmops rollback NAME` brings the previous champion back, `--retire` leaves nobody in its place",
}

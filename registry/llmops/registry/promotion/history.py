"""An asset's story from its rows: what was registered, found, said, decided and moved; by whom, when, on what evidence.

Knows how the tables fit together. The order is that of the asset's own sequence, so a clock that went back changes the
times that are shown and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from llmops.core.errors import IntegrityError
from llmops.core.names import Name
from llmops.registry import aliases, bootstrap, evidence, lineage, queries
from llmops.registry.aliases import Moved
from llmops.registry.evidence import Evidence
from llmops.registry.promotion import approvals, effects, endings, rollback, rows
from llmops.registry.promotion.records import Approval, Taken
from llmops.registry.promotion.states import State
from llmops.registry.records import Version

_DECISIONS = frozenset(
    {
        effects.DECISION,
        effects.SUCCESSION,
        effects.DENIAL,
        rollback.GATE,
        endings.WITHDRAWAL,
        endings.RETIREMENT,
        bootstrap.GATE,
    }
)
_SAID = {approvals.APPROVE: "approved", approvals.DENY: "denied", approvals.REVOKE: "took back their word"}


@dataclass(frozen=True)
class Proof:
    """An evidence record in a line: its gate, verdict, effect with interval; the records it rests on."""

    evidence_id: str
    gate: str
    verdict: str
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    baseline: str | None = None
    reason: str | None = None
    parents: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"parents": list(self.parents)}

    def __str__(self) -> str:
        parts = [f"{self.gate} {self.verdict}"]
        if self.effect is not None:
            parts.append(f"{self.effect:+.4g}")
        if self.ci_low is not None and self.ci_high is not None:
            parts.append(f"[{self.ci_low:.4g}, {self.ci_high:.4g}]")
        if self.baseline:
            parts.append(f"against {self.baseline}")
        return " ".join([*parts, f"({self.evidence_id[:12]})"])


@dataclass(frozen=True)
class Entry:
    """One line of the story. `kind` is registered, evidence, state, approval or alias."""

    at: datetime
    by: str
    kind: str
    version: int | None
    what: str
    why: str = ""
    proofs: tuple[Proof, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The entry as `llmops models history --json` prints it."""
        return {
            "at": self.at.isoformat(),
            "by": self.by,
            "kind": self.kind,
            "version": self.version,
            "what": self.what,
            "why": self.why,
            "evidence": [proof.as_json() for proof in self.proofs],
            **self.detail,
        }


@dataclass(frozen=True)
class Reign:
    """Who was champion at a moment: since when, until when (None: still), and on what evidence."""

    name: Name
    version: int
    since: datetime
    until: datetime | None
    by: str
    proofs: tuple[Proof, ...]

    def as_json(self) -> dict[str, Any]:
        """The reign as `llmops models history --at --json` prints it."""
        return {
            "name": str(self.name),
            "version": self.version,
            "since": self.since.isoformat(),
            "until": self.until.isoformat() if self.until else None,
            "by": self.by,
            "evidence": [proof.as_json() for proof in self.proofs],
        }


def story(connection: Connection, name: Name) -> list[Entry]:
    """Everything that happened to an asset, newest first."""
    versions = queries.versions(connection, name=name)
    taken = rows.steps_of(connection, name)
    filed = [record for version in versions for record in _filed(connection, version)]
    proofs = {proof.evidence_id: proof for proof, _ in filed}
    cited = _first_cited(taken)
    placed = [((_place(at, cited.get(p.evidence_id)), 0), entry) for p, entry in filed if (at := entry.at)]
    placed = [(place, entry) for place, entry in placed if entry.detail["gate"] not in _DECISIONS]
    placed += [((item.step_id, 1), _state(item, proofs)) for item in taken]
    placed += [((item.approval_id, 1), _word(item)) for item in approvals.of_asset(connection, str(name))]
    moves = aliases.history(connection, name)
    placed += [((move.move_id, 1), _moved(move, proofs)) for move in moves]
    first = _first_of(placed)
    origins = {edge.downstream: edge for edge in lineage.of_asset(connection, name) if edge.relation == "copied_from"}
    placed += [((_place(v.created_at, first.get(v.version)), -1), _registered(v, origins)) for v in versions]
    return [entry for _, entry in sorted(placed, key=lambda item: item[0], reverse=True)]


def champion_at(connection: Connection, name: Name, at: datetime) -> Reign | None:
    """Who was champion at a moment: the last move, in the asset's own order, that was not made after it."""
    moves = aliases.history(connection, name, bootstrap.CHAMPION)
    for index, move in enumerate(moves):
        if move.moved_at <= at:
            if move.version is None:
                return None
            until = moves[index - 1].moved_at if index else None
            proofs = _with_parents(connection, move.evidence_id)
            return Reign(name, move.version, move.moved_at, until, move.moved_by, proofs)
    return None


def _filed(connection: Connection, version: Version) -> list[tuple[Proof, Entry]]:
    """The records about a version; one that was changed after it was filed is shown as that."""
    found = []
    for row, record in evidence.told_of(connection, version):
        proof = _changed(row.evidence_id, row.gate) if record is None else _brief(record)
        about = proof.baseline and f" against {proof.baseline}"
        what = f"{row.gate} found: {proof.verdict}{about or ''}"
        detail = {"gate": row.gate, "verdict": proof.verdict}
        found.append((proof, Entry(row.ended, row.actor, "evidence", version.version, what, "", (proof,), detail)))
    return found


def _proof(connection: Connection, identifier: str) -> Proof:
    try:
        return _brief(evidence.load(connection, identifier))
    except IntegrityError:
        return _changed(identifier, evidence.gate_of(connection, identifier) or "?")


def _changed(identifier: str, gate: str) -> Proof:
    return Proof(identifier, gate, "CHANGED AFTER IT WAS FILED")


def _brief(record: Evidence) -> Proof:
    baseline = record.baseline
    return Proof(
        record.evidence_id,
        record.gate,
        record.verdict,
        record.effect,
        record.ci_low,
        record.ci_high,
        f"{baseline.name}/{baseline.version}" if baseline else None,
        record.method.params.get("reason"),
        record.parents,
    )


def _with_parents(connection: Connection, identifier: str) -> tuple[Proof, ...]:
    """A record and all it rests on, nearest first, each once."""
    found: dict[str, Proof] = {}
    queue = [identifier]
    while queue:
        here = queue.pop(0)
        if here not in found:
            found[here] = _proof(connection, here)
            queue += found[here].parents
    return tuple(found.values())


def _first_cited(taken: Iterable[Taken]) -> dict[str, str]:
    cited: dict[str, str] = {}
    for item in taken:
        for identifier in item.evidence:
            cited.setdefault(identifier, item.step_id)
    return cited


def _first_of(placed: Sequence[tuple[tuple[str, int], Entry]]) -> dict[int, str]:
    """The first place that each version has in the story."""
    first: dict[int, str] = {}
    for (place, _), entry in placed:
        if entry.version is not None:
            first[entry.version] = min(first.get(entry.version, place), place)
    return first


def _place(at: datetime, before: str | None) -> str:
    """Where something without an id of the sequence stands: at its time, but before what rests on it."""
    milliseconds = f"{int(at.timestamp() * 1000):012x}"
    place = f"{milliseconds[:8]}-{milliseconds[8:]}"
    return place if before is None else min(place, before)


def _registered(version: Version, origins: dict[str, lineage.Edge]) -> Entry:
    origin = origins.get(str(version.ref))
    what = "registered" if origin is None else f"registered as a copy of {origin.upstream}"
    detail = {"digest": version.digest, "description": version.description}
    return Entry(version.created_at, version.created_by, "registered", version.version, what, "", (), detail)


def _state(item: Taken, proofs: dict[str, Proof]) -> Entry:
    what = item.after.phrase if item.after is not State.CANARY else f"canary, step {item.step + 1}"
    detail = {
        "promotion_id": item.promotion_id,
        "step_id": item.step_id,
        "from": item.before.value,
        "to": item.after.value,
        "step": item.step,
    }
    return Entry(item.at, item.by, "state", item.version, what, item.why, _pick(item.evidence, proofs), detail)


def _word(item: Approval) -> Entry:
    what = f"{_SAID[item.decision]} for {item.group}"
    detail = {
        "promotion_id": item.promotion_id,
        "approval_id": item.approval_id,
        "group": item.group,
        "decision": item.decision,
    }
    return Entry(item.at, item.by, "approval", item.version, what, item.comment, (), detail)


def _moved(move: Moved, proofs: dict[str, Proof]) -> Entry:
    was = f"was {move.previous_version}" if move.previous_version is not None else "was nobody"
    what = f"{move.alias} taken away ({was})" if move.version is None else f"{move.alias} ({was})"
    picked = _pick((move.evidence_id,), proofs)
    detail = {
        "move_id": move.move_id,
        "alias": move.alias,
        "to_version": move.version,
        "previous_version": move.previous_version,
        "evidence_id": move.evidence_id,
    }
    version = move.version if move.version is not None else move.previous_version
    why = picked[0].reason or "" if picked else ""
    return Entry(move.moved_at, move.moved_by, "alias", version, what, why, picked, detail)


def _pick(identifiers: Iterable[str], proofs: dict[str, Proof]) -> tuple[Proof, ...]:
    return tuple(proofs[identifier] for identifier in identifiers if identifier in proofs)

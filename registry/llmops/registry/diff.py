"""Two versions side by side: what was set, measured, written and found about each.

Knows how to lay values beside each other; which of the two is better is for evidence.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmops.registry.assets import Registry
from llmops.registry.evidence import Evidence
from llmops.registry.lineage import Relation
from llmops.registry.records import Kind, Version


@dataclass(frozen=True)
class Difference:
    """One key with the value on each side (None: it is not there)."""

    key: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Diff:
    """Everything that differs; `evidence` holds both sides' newest record of each gate, whether they differ or not."""

    left: Version
    right: Version
    params: list[Difference]
    tags: list[Difference]
    metrics: list[Difference]
    files: list[Difference]
    text: str
    evidence: list[Difference]

    def as_json(self) -> dict[str, Any]:
        """The diff as `llmops models diff --json` prints it."""
        tables = {
            key: [vars(item) for item in getattr(self, key)]
            for key in ("params", "tags", "metrics", "files", "evidence")
        }
        return {"left": str(self.left.ref), "right": str(self.right.ref), **tables, "text": self.text}


def diff(registry: Registry, left: Version, right: Version) -> Diff:
    """Lay two versions beside each other. MLflow is asked only where a run is known to have made one of them.

    Raises:
        IntegrityError: a prompt's text or an evidence record is not what was registered.
    """
    return Diff(
        left,
        right,
        params=differing(left.params, right.params),
        tags=differing(left.tags, right.tags),
        metrics=differing(registry.metrics(left), registry.metrics(right)),
        files=differing(registry.file_digests(left), registry.file_digests(right)),
        text=_text(registry, left, right),
        evidence=_evidence(registry.evidence(left), registry.evidence(right)),
    )


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """The keys whose values are not equal, by name."""
    keys = sorted(left.keys() | right.keys())
    found = [Difference(key, left.get(key), right.get(key)) for key in keys]
    return [item for item in found if item.left != item.right]


def _text(registry: Registry, left: Version, right: Version) -> str:
    """The prompts' texts as a unified diff: of the versions themselves, or of the prompts they pin."""
    ours, theirs = _prompt(registry, left), _prompt(registry, right)
    if ours is None or theirs is None or ours[1] == theirs[1]:
        return ""
    lines = difflib.unified_diff(
        ours[1].splitlines(), theirs[1].splitlines(), str(ours[0].ref), str(theirs[0].ref), lineterm=""
    )
    return "\n".join(lines)


def _prompt(registry: Registry, version: Version) -> tuple[Version, str] | None:
    if version.kind is not Kind.PROMPT:
        pinned = [found.node for found in registry.lineage(version.ref) if found.edge.relation is Relation.PROMPT]
        if not pinned:
            return None
        version = registry.resolve(pinned[0])
    return version, registry.load_prompt(version)


def _evidence(left: list[Evidence], right: list[Evidence]) -> list[Difference]:
    ours, theirs = ({record.gate: record for record in side} for side in (left, right))  # the newest of each gate stays
    gates = sorted(ours.keys() | theirs.keys())
    return [Difference(gate, _brief(ours.get(gate)), _brief(theirs.get(gate))) for gate in gates]


def _brief(record: Evidence | None) -> dict[str, Any] | None:
    if record is None:
        return None
    kept = {"verdict", "effect", "ci_low", "ci_high"}
    return {"evidence_id": record.evidence_id, **record.model_dump(mode="json", include=kept, exclude_none=True)}

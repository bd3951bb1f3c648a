"""The card of a version: what it is, what was measured and found, who approved, in one place for people and audit.

Knows reports, evidence and files. The JSON is the card; Markdown and page are two views of it. A card lies under the
digest of its JSON in `<state>/cards/`, and beside the version's run in MLflow where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.core.files import write_atomic
from llmops.core.ids import canonical_json, digest
from llmops.registry.assets import Registry
from llmops.registry.evidence import Evidence
from llmops.registry.gates import markdown, page
from llmops.registry.gates.filing import filed_reports, folder_of
from llmops.registry.gates.report import plain
from llmops.registry.records import Version

FORMAT = 1
_RUN_FOLDER = "llmops-card"
_STATEMENTS = ("intended_use", "out_of_scope", "limitations", "ethics", "owner", "license")


@dataclass(frozen=True)
class Card:
    """A written card."""

    digest: str
    folder: Path
    in_mlflow: bool

    @property
    def page(self) -> Path:
        return self.folder / "card.html"

    def as_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "folder": str(self.folder), "page": str(self.page), "in_mlflow": self.in_mlflow}


def write_card(version: Version, registry: Registry, *, approvals: Iterable[Mapping[str, Any]] = ()) -> Card:
    """Write the card of a version from what is filed about it: evidence, the newest reports, lineage.

    Args:
        approvals: who said what for whom: `group`, `decision`, `by`, `at`, `comment`.

    Raises:
        IntegrityError: a report is not what its evidence was filed for.
        StorageError: the disk refused.
    """
    contents = card(
        version,
        reports=filed_reports(version, registry),
        evidence=registry.evidence(version),
        lineage=[found.as_json() for found in registry.lineage(version.ref)],
        approvals=approvals,
    )
    name = digest(canonical_json(contents))
    folder = folder_of(version, registry) / name
    folder.mkdir(parents=True, exist_ok=True)
    views = {
        "card.md": markdown.render(contents),
        "card.html": page.render(contents),
        "card.json": orjson.dumps(contents, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode(),
    }
    for file, text in views.items():
        write_atomic(folder / file, text.encode())
    return Card(name, folder, registry.attach(version, folder, f"{_RUN_FOLDER}/{name[:12]}"))


def card(
    version: Version,
    *,
    reports: Sequence[Mapping[str, Any]],
    evidence: Sequence[Evidence],
    lineage: Sequence[Mapping[str, Any]],
    approvals: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The card as JSON values."""
    contents: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "version": version.as_json(),
            "ref": str(version.ref),
            "statements": {key: version.tags[key] for key in _STATEMENTS if version.tags.get(key)},
            "reports": [dict(report) for report in reports],
            "evidence": [_told(record) for record in evidence],
            "approvals": [dict(approval) for approval in approvals],
            "lineage": [dict(edge) for edge in lineage],
        }
    )
    return contents


def _told(record: Evidence) -> dict[str, Any]:
    return {
        "evidence_id": record.evidence_id,
        "gate": record.gate,
        "verdict": record.verdict,
        "method": record.method.name,
        "actor": record.actor,
        "ended": record.ended.isoformat(),
        "git": record.env.git,
    }

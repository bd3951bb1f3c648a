"""Reports on file: the evidence record in SQL, and beside it the whole report with all it measured, for the card.

The record names the report by its digest, so a report that was changed afterwards is told. Knows files and ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import IntegrityError
from llmops.core.files import write_atomic
from llmops.core.ids import digest
from llmops.registry.assets import Registry
from llmops.registry.evidence import Evidence
from llmops.registry.gates.report import REPORT_KEY, Report
from llmops.registry.records import Version

GATES = ("finetune", "validation", "comparison")
"""In the order in which a card tells them."""


def file_report(report: Report, registry: Registry, parents: Sequence[str] = ()) -> str:
    """File what a gate found, as the registry's principal; gives the evidence's id.

    Args:
        parents: ids of the evidence it rests on.

    Raises:
        DeniedError: the principal lacks APPLY TAG on the asset.
        StorageError: the disk refused.
    """
    record = report.evidence(registry.authority.principal, parents)
    path = _place(registry, report.version, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, report.body)
    return registry.add_evidence(record)


def filed_reports(version: Version, registry: Registry) -> list[dict[str, Any]]:
    """The newest report of each gate about a version, of those whose files are in this state folder.

    Raises:
        IntegrityError: a report is not what its evidence was filed for.
    """
    newest: dict[str, dict[str, Any]] = {}
    for record in registry.evidence(version):
        path = _place(registry, version, record)
        if record.gate in GATES and REPORT_KEY in record.method.params and path.is_file():
            body = path.read_bytes()
            if digest(body) != record.method.params[REPORT_KEY]:
                raise IntegrityError("a report was changed after its evidence was filed", where=str(path))
            newest[record.gate] = orjson.loads(body) | {"evidence_id": record.evidence_id}
    return [newest[gate] for gate in GATES if gate in newest]


def folder_of(version: Version, registry: Registry) -> Path:
    """Where cards and reports of a version lie."""
    return registry.state.root / "cards" / str(version.name) / str(version.version)


def _place(registry: Registry, version: Version, record: Evidence) -> Path:
    return folder_of(version, registry) / "reports" / f"{record.method.params.get(REPORT_KEY, record.evidence_id)}.json"

"""What the card of a version shows: statements about it, and what each gate measured, where its reports lie here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from llmops.core.names import Ref
from llmops.registry.records import Version
from llmops.serving.registry_pages.desk import Asked
from llmops.serving.registry_pages.versions import word_json


@dataclass(frozen=True)
class ReportView:
    """One gate's report in rows and plots."""

    report: Mapping[str, Any]
    findings: list[tuple[Any, ...]]
    measured: list[tuple[Any, ...]]
    plots: list[tuple[str, Markup]]
    data: str

    @property
    def beside(self) -> str:
        """What the version was compared with, "" where it was looked at by itself."""
        return str(self.report["baseline"] or (self.report["heuristic"] or {}).get("kind") or "")

    @property
    def confusion(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.report["figures"].get("confusion")
        return found


@dataclass(frozen=True)
class CardPage:
    version: Version
    contents: dict[str, Any]
    reports: list[ReportView]

    def as_json(self) -> dict[str, Any]:
        return self.contents


def card_page(asked: Asked) -> CardPage:
    """The card of a version, from what is filed about it now.

    Raises:
        NotFoundError: there is none that may be known of.
        IntegrityError: evidence or a report is not what was filed.
    """
    from llmops.registry.gates import card as cards
    from llmops.registry.gates.filing import filed_reports

    registry, promoter = asked.registry, asked.promoter
    version = registry.resolve(Ref.parse(f"{asked.params['name']}/{asked.params['version']}"))
    promotion = next((one for one in promoter.states(version.name) if one.version == version.version), None)
    contents = cards.card(
        version,
        reports=filed_reports(version, registry),
        evidence=registry.evidence(version),
        lineage=[found.as_json() for found in registry.lineage(version.ref)],
        approvals=[word_json(word) for word in promoter.words(promotion)] if promotion else [],
    )
    return CardPage(version, contents, [_report(report) for report in contents["reports"]])


def _report(report: Mapping[str, Any]) -> ReportView:
    from llmops.registry.gates import markdown, plots

    figures = report["figures"]
    drawn = [
        (name, Markup(plots.bars(name, list(rows))))  # noqa: S704 - every text in it was escaped
        for name, rows in groupby(figures.get("metrics") or (), key=lambda row: str(row["metric"]))
    ]
    if figures.get("calibration"):
        drawn.append(("Calibration", Markup(plots.calibration(figures["calibration"]))))  # noqa: S704 - as above
    measured = list(markdown.measured(report)) if figures.get("metrics") else []
    return ReportView(report, markdown.findings(report), measured, drawn, markdown.data(report))

"""`llmops models validate` and `compare`: put a version through a gate, file what was found, write its card.

Knows job files and how a report is shown. Nothing here moves an alias.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import json_option, print_json, print_table, say, set_option
from llmops.cli.registry_job import existing_registry
from llmops.core.config import load_config

if TYPE_CHECKING:
    from llmops.registry.assets import Registry
    from llmops.registry.gates import Finding, Report

_GATE_FAILED = 3

gate_option = click.option(
    "--config", "config", required=True, type=click.Path(path_type=Path), help="Job file that says what is asked."
)


@click.command("validate")
@click.argument("ref")
@gate_option
@set_option
@json_option
def validate(ref: str, config: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Check one version (dev.fraud.clf/3) in a process of its own, and file the evidence. Exit code 3: no pass."""
    from llmops.registry.gates import ValidationSpec
    from llmops.registry.gates import validate as check

    spec = load_config(ValidationSpec, config, overrides=overrides).value
    with existing_registry(spec.state, ref) as registry:
        return _conclude(check(ref, spec, registry), registry, as_json=as_json)


@click.command("compare")
@click.argument("challenger")
@click.argument("champion", required=False)
@gate_option
@set_option
@json_option
def compare(challenger: str, champion: str | None, config: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Compare CHALLENGER with CHAMPION on the same rows or questions, and file the evidence. Exit code 3: no pass.

    Without CHAMPION whoever is champion now, or the job's `baseline` where nobody is.
    """
    from llmops.registry.gates import ComparisonSpec
    from llmops.registry.gates import compare as check

    spec = load_config(ComparisonSpec, config, overrides=overrides).value
    with existing_registry(spec.state, challenger) as registry:
        return _conclude(check(challenger, champion, spec, registry), registry, as_json=as_json)


def _conclude(report: Report, registry: Registry, *, as_json: bool) -> int:
    """File and show a report; the exit code says whether the version passed."""
    from llmops.registry.gates import file_report, write_card

    evidence_id = file_report(report, registry)
    card = write_card(registry.resolve(report.version.ref), registry)
    if as_json:
        print_json(report.as_json() | {"evidence_id": evidence_id, "card": card.as_json()})
    else:
        _print(report)
        say(f"{report.version.ref}: {report.gate} {report.verdict}; evidence {evidence_id}")
        say(f"card: {card.page}")
    return 0 if report.verdict == "pass" else _GATE_FAILED


def _print(report: Report) -> None:
    rows = [(f.verdict, f.check, f.slice or "all", _number(f.measured), f.limit, _told(f)) for f in report.findings]
    print_table(("verdict", "check", "slice", "measured", "limit", "what"), rows, empty="nothing was asked")


def _told(finding: Finding) -> str:
    return f"{finding.what} ({finding.hint})" if finding.hint else finding.what


def _number(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value

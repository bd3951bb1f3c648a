"""`llmops audit`: who did what, and whether the record of it is still the one that was written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.group import Group
from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import config_option, existing_registry, exists, job_state

if TYPE_CHECKING:
    from llmops.registry.audit import Report


@click.group("audit", cls=Group)
def command() -> None:
    """List who did what, and check that nobody changed the record."""


@command.command("list")
@click.option("--about", metavar="NAME", help="An asset with its versions and aliases, a catalog, a key.")
@click.option("--actor", help="Only what this principal did: local, key:ID, a person's id.")
@click.option("--action", help="Only this action: create, alias, approve, deploy, rollback, grant, ...")
@click.option("--since", metavar="TIME", help="Not before this time: 2026-01-31, or 2026-01-31T12:00 (UTC).")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many rows.")
@config_option
@json_option
def list_(since: str | None, config: Path | None, as_json: bool, **filters: Any) -> None:
    """Print the log, newest first: an intent before each effect, an outcome beside it."""
    state = job_state(config)
    found: list[Any] = []
    if exists(state):
        from llmops.registry.audit import Wanted

        with existing_registry(state) as registry:
            found = registry.read_audit(Wanted(since=_moment(since), **filters))
    if as_json:
        print_json([entry.as_json() for entry in found])
        return
    rows = [
        (e.seq, e.event_time[:19], e.actor, e.action_name, e.about, e.phase, e.error_message or e.evidence_id)
        for e in found
    ]
    columns = ("seq", "time (UTC)", "actor", "action", "about", "phase", "evidence or error")
    print_table(columns, rows, empty="no entries" if exists(state) else "no entries yet: `llmops ingest` leaves some")


@command.command("verify")
@config_option
@json_option
def verify(config: Path | None, as_json: bool) -> int:
    """Check seals, order, anchor, outcomes and evidence of the whole log. Exit code 3 where something is wrong."""
    from llmops.core.sql import open_sql
    from llmops.registry.audit import Report
    from llmops.registry.audit import verify as check

    state = job_state(config)
    report = Report()
    if exists(state):
        with open_sql(state) as sql:
            report = check(sql, state)
    if as_json:
        print_json(report.as_json())
    else:
        _show(report)
    return 0 if report.ok else 3


def _show(report: Report) -> None:
    rows = [("wrong", problem.seq, problem.what) for problem in report.problems]
    rows += [("look", warning.seq, warning.what) for warning in report.warnings]
    if rows:
        print_table(("verdict", "seq", "what"), rows, empty="")
    checked = f"{report.entries:,} entries and {report.evidence:,} records of evidence in {report.seconds:.1f} s"
    if report.ok:
        say(f"the record is whole: {checked}")
    elif report.first_bad is not None:
        say(f"the record was changed, first at entry {report.first_bad}: {checked}")
    else:
        say(f"the record can't be trusted: {checked}")


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"`{text}` is no time; write 2026-01-31 or 2026-01-31T12:00", param_hint="--since"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)

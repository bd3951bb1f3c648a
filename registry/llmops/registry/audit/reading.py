"""Finding rows of the audit log again: by what they are about, who acted, what was done, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, or_, select

from llmops.registry.audit import entries, tables
from llmops.registry.audit.entries import Entry


@dataclass(frozen=True)
class Wanted:
    """Which rows; None leaves open.

    Args:
        about: an asset, with its versions and aliases; or exactly what an action was about.
        before: only rows with a lower number, to go on where a list ended.
        settled: of an action that has an outcome the outcome alone, which says all that its intent did.
    """

    about: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    limit: int = 100
    before: int | None = None
    settled: bool = False


def find(connection: Connection, wanted: Wanted) -> list[Entry]:
    """Those rows, newest first."""
    column = tables.log.c
    query = select(tables.log).order_by(column.seq.desc()).limit(wanted.limit)
    if wanted.about is not None:
        parts = (column.about.startswith(f"{wanted.about}{mark}", autoescape=True) for mark in "/@")
        query = query.where(or_(column.about == wanted.about, *parts))
    if wanted.actor is not None:
        query = query.where(column.actor == wanted.actor)
    if wanted.action is not None:
        query = query.where(column.action_name == wanted.action)
    if wanted.since is not None:
        query = query.where(column.event_time >= entries.moment(wanted.since))
    if wanted.before is not None:
        query = query.where(column.seq < wanted.before)
    if wanted.settled:
        still_open = select(tables.open_actions.c.action_id)
        query = query.where(or_(column.phase != entries.INTENT, column.action_id.in_(still_open)))
    return [Entry(*row) for row in connection.execute(query)]

"""What the audit page shows: actions, newest first, each with its outcome; and whether the chain is whole."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from llmops.core.errors import ConflictError
from llmops.registry.audit import Entry, Report, Wanted
from llmops.registry.audit.entries import INTENT
from llmops.serving.registry_pages.desk import Asked

ROWS: Final = 100
_MOST_ROWS = 1000
_MOST_SEQ = 10**15
_CHECKING = threading.Lock()


@dataclass(frozen=True)
class Action:
    """One action: the row of its outcome, or of its intent where no outcome is there."""

    entry: Entry

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.entry.event_time)

    @property
    def phase(self) -> str:
        return "open" if self.entry.phase == INTENT else self.entry.phase

    @property
    def params(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.entry.request_params)
        return found


@dataclass(frozen=True)
class AuditPage:
    actions: list[Action]
    about: str
    actor: str
    action: str
    older: int | None

    def as_json(self) -> dict[str, Any]:
        entries = [action.entry.as_json() for action in self.actions]
        return {"entries": entries, "older": self.older}


def audit_page(asked: Asked) -> AuditPage:
    """The newest actions that the address asks for.

    Raises:
        DeniedError: whoever asks does not manage what they are about.
    """
    about, actor, action = asked.word("about"), asked.word("actor"), asked.word("action")
    rows = asked.number("rows", ROWS, _MOST_ROWS)
    before = asked.number("before", _MOST_SEQ, _MOST_SEQ)
    wanted = Wanted(about or None, actor or None, action or None, limit=rows, before=before, settled=True)
    entries = asked.registry.read_audit(wanted)
    older = entries[-1].seq if len(entries) == rows else None
    return AuditPage([Action(entry) for entry in entries], about, actor, action, older)


@dataclass(frozen=True)
class VerifyPage:
    report: Report
    at: datetime

    def as_json(self) -> dict[str, Any]:
        return self.report.as_json()


def verify_page(asked: Asked) -> VerifyPage:
    """Check the whole chain now; one at a time, for it reads all of it.

    Raises:
        DeniedError: whoever asks does not manage everything.
        ConflictError: it is being checked.
    """
    asked.registry.read_audit(Wanted(limit=1))
    if not _CHECKING.acquire(blocking=False):
        raise ConflictError("the audit chain is being checked already", hint="look again in a moment")
    try:
        return VerifyPage(asked.registry.audit.verify(), datetime.now().astimezone())
    finally:
        _CHECKING.release()

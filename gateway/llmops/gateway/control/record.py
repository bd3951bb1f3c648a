"""Puts what became of the gateway's configurations into the audit log: each once, in its order.

The supervisor acts and writes down, this process tells of it. Knows both forms; asks nobody whether it was allowed:
whoever may write the file, or signal the process, has already been let in by the operating system.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.core.errors import IntegrityError
from llmops.gateway.changes import Change, forget, read_change, written
from llmops.gateway.control.acts import SERVICE
from llmops.registry.audit import Origin
from llmops.registry.authority import Authority

ACTION = "configure"


class Recorder:
    """Looks when it is called. `authority` is the process' own: its account is the supervisor's too."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._folder = folder
        self._authority = authority

    def __call__(self) -> None:
        """Put on record what is not there yet.

        Raises:
            IntegrityError: a file is damaged; the others are on record.
            StorageError, UnavailableError: the log cannot be written; the rest waits.
        """
        damaged: IntegrityError | None = None
        for path in written(self._folder):
            try:
                change = read_change(path)
            except IntegrityError as error:
                damaged = error
                continue
            if change is not None and change.outcome:
                self._tell(change)
                forget(path)
        if damaged is not None:
            raise damaged

    def _tell(self, change: Change) -> None:
        self._authority.audit.witnessed(
            ACTION,
            SERVICE,
            _params(change),
            _outcome(change),
            principal=self._authority.principal,
            origin=replace(Origin.local(SERVICE), request_id=change.change_id),
        )


def _params(change: Change) -> dict[str, Any]:
    at = datetime.fromtimestamp(change.at, UTC).isoformat(timespec="milliseconds")
    told = {"cause": change.cause, "file": change.file, "at": at, "before": change.before, "after": change.after}
    return {**told, "changed": list(change.changed)}


def _outcome(change: Change) -> dict[str, Any]:
    return {
        "phase": change.outcome,
        "status_code": change.status,
        "error_message": change.error or None,
        "result": {"recovered": True} if change.recovered else None,
    }

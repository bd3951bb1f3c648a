"""Whose request is whose, and which feedback is in already: what guards the feedback table.

The newest requests are in memory; older ones, and those of earlier processes, are looked up in the log, rows still on
their way in the spool included.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from llmops.core.errors import ConflictError, DeniedError, NotFoundError

KEPT: Final = 50_000

Find = Callable[[str, str, str], list[dict[str, Any]]]
"""`find(table, column, value)`: the rows of a log table, pending ones included."""


@dataclass
class Entry:
    """One request: its requester, and the thumbs it got through this process by feedback id."""

    owner: str
    endpoint: str
    complete: bool
    """Whether `given` holds every feedback there can be: true for requests born in this process."""
    given: dict[str, str] = field(default_factory=dict)


class Ledger:
    """Used from the event loop only; look-ups in the log run in a thread."""

    def __init__(self, find: Find, inference_log: str, feedback: str, *, kept: int = KEPT) -> None:
        self._find = find
        self._inference_log = inference_log
        self._feedback = feedback
        self._kept = kept
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def remember(self, request_id: str, owner: str, endpoint: str) -> None:
        """Note a new request of this process."""
        self._add(request_id, Entry(owner, endpoint, complete=True))

    async def entry(self, request_id: str, asker: str) -> Entry:
        """The request, where it is the asker's own.

        Raises:
            NotFoundError: no such request was ever answered here.
            DeniedError: it is somebody else's.
        """
        entry = self._entries.get(request_id) or await self._look_up(request_id)
        if entry.owner != asker:
            raise DeniedError("only whoever asked may judge the answer", where="request_id")
        self._entries.move_to_end(request_id)
        return entry

    async def is_repeat(self, entry: Entry, feedback_id: str, fingerprint: str) -> bool:
        """Whether this very feedback is in already.

        Raises:
            ConflictError: the id is taken by another feedback.
        """
        if feedback_id not in entry.given and not entry.complete:
            for row in await asyncio.to_thread(self._find, self._feedback, "feedback_id", feedback_id):
                entry.given[feedback_id] = row["fingerprint"] if "fingerprint" in row else fingerprint
        if feedback_id not in entry.given:
            return False
        if entry.given[feedback_id] != fingerprint:
            raise ConflictError(
                "this feedback id is taken by another feedback", where="feedback_id", hint="make a new id for a new judgement"
            )
        return True

    async def _look_up(self, request_id: str) -> Entry:
        rows = await asyncio.to_thread(self._find, self._inference_log, "request_id", request_id)
        mine = [row for row in rows if row["layer"] == "serving"]
        if not mine:
            raise NotFoundError("no such request was answered here", where="request_id")
        entry = Entry(str(mine[0]["requester"]), str(mine[0]["endpoint"]), complete=False)
        self._add(request_id, entry)
        return entry

    def _add(self, request_id: str, entry: Entry) -> None:
        self._entries[request_id] = entry
        while len(self._entries) > self._kept:
            self._entries.popitem(last=False)

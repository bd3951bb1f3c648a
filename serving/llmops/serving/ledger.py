"""Whose request is whose, and which feedback is in already: what guards the feedback table.

The newest requests are in memory; older ones, and those of earlier processes, are looked up in the log, rows still on
their way in the spool included.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from llmops.core.errors import ConflictError, DeniedError, NotFoundError
from llmops.serving.record import Thumb

KEPT: Final = 50_000

Find = Callable[[str, str, str], list[dict[str, Any]]]
"""`find(table, column, value)`: the rows of a log table, pending ones included."""


@dataclass(frozen=True)
class Entry:
    """One request and its requester. One `born_here` can have got feedback through this process only."""

    owner: str
    endpoint: str
    born_here: bool


class Ledger:
    """Used from the event loop only; look-ups in the log run in a thread."""

    def __init__(self, find: Find, inference_log: str, feedback: str, *, kept: int = KEPT) -> None:
        self._find = find
        self._inference_log = inference_log
        self._feedback = feedback
        self._kept = kept
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._thumbs: OrderedDict[str, Thumb] = OrderedDict()

    def remember(self, request_id: str, owner: str, endpoint: str) -> None:
        """Note a new request of this process.

        Raises:
            ConflictError: a trusted caller's id is already that of somebody else's request.
        """
        known = self._entries.get(request_id)
        if known is not None and known.owner != owner:
            raise ConflictError("this request id is taken", where="x-request-id", hint="make a new id for each request")
        self._keep(self._entries, request_id, Entry(owner, endpoint, born_here=True))

    def note(self, thumb: Thumb) -> None:
        """Note a feedback that is on the disk."""
        self._keep(self._thumbs, thumb.feedback_id, thumb)

    async def entry(self, request_id: str, asker: str) -> Entry:
        """The request, where it is the asker's own.

        Raises:
            NotFoundError: no such request was ever answered here.
            DeniedError: it is somebody else's.
        """
        entry = self._entries.get(request_id) or await self._look_up(request_id)
        if entry.owner != asker:
            raise DeniedError("only whoever asked may judge the answer", where="request_id", code="not_your_request")
        return entry

    async def is_repeat(self, entry: Entry, thumb: Thumb) -> bool:
        """Whether this very feedback is in already.

        Raises:
            ConflictError: its id is taken by another feedback.
        """
        known = self._thumbs.get(thumb.feedback_id)
        if known is not None:
            _same(known == thumb)
            return True
        if entry.born_here:
            return False
        rows = await asyncio.to_thread(self._find, self._feedback, "feedback_id", thumb.feedback_id)
        # Words may have been redacted on their way into the table: the request is what can be compared.
        _same(all(row["request_id"] == thumb.request_id for row in rows))
        return bool(rows)

    async def _look_up(self, request_id: str) -> Entry:
        rows = await asyncio.to_thread(self._find, self._inference_log, "request_id", request_id)
        mine = [row for row in rows if row["layer"] == "serving"]
        if not mine:
            raise NotFoundError("no such request was answered here", where="request_id")
        entry = Entry(str(mine[0]["requester"]), str(mine[0]["endpoint"]), born_here=False)
        self._keep(self._entries, request_id, entry)
        return entry

    def _keep(self, kept: OrderedDict[str, Any], key: str, value: Any) -> None:
        kept[key] = value
        kept.move_to_end(key)
        while len(kept) > self._kept:
            kept.popitem(last=False)


def _same(same: bool) -> None:
    if not same:
        raise ConflictError(
            "this feedback id is taken by another feedback",
            where="feedback_id",
            hint="make a new id for a new judgement",
        )

"""People's own conversations at this server: kept while they are held, shown as far as their sources may still be read.

An answer that rests on a document its reader may no longer read, or that is gone, is withheld as a whole: it may say
in its own words what stood there. It joins the tables of conversations with the endpoints, and knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from llmops.core.chain import Cancelled, PassageRef
from llmops.core.errors import DeniedError, LlmopsError, NotFoundError
from llmops.core.identity import Principal
from llmops.core.people.conversations import Begun, Concluded, Conversation, Conversations, Place, Summary, Turn
from llmops.core.people.shares import Shares
from llmops.core.sql import Sql
from llmops.serving.endpoint import Endpoints
from llmops.serving.exchange import Exchange, Outcome, Question
from llmops.serving.record import citation_json, served_json, step_json
from llmops.serving.sign_in.config import HistoryConfig

log = logging.getLogger(__name__)

TIDY_S: Final = 3600.0
"""How often conversations past their days are looked for."""


@dataclass(frozen=True)
class Shown:
    """A conversation as one reader may see it; `withheld` are the turns whose answers they may not."""

    conversation: Conversation
    withheld: frozenset[str]


class History:
    """One server's part of the history. Made inside its event loop."""

    def __init__(self, config: HistoryConfig, sql: Sql, endpoints: Endpoints) -> None:
        self.config = config
        self._kept = Conversations(sql)
        self._shares = Shares(sql)
        self._endpoints = endpoints
        self._writing: set[asyncio.Task[None]] = set()
        self._tidying = asyncio.create_task(self._tidy())

    async def begin(self, question: Question, after: str | None) -> None:
        """Keep a question before it is answered. Raises as `Conversations.begin`."""
        context = question.context
        place = Place(context.principal.id, context.session_id or "")
        words = question.messages[-1]["content"]
        begun = Begun(context.request_id, place, after, question.endpoint, words)
        await asyncio.to_thread(self._kept.begin, begun)

    def conclude(self, exchange: Exchange) -> asyncio.Task[None]:
        """Keep how a finished exchange ended; the task ends when that is on the disk."""
        task = asyncio.create_task(self._conclude(exchange.question, exchange.outcome))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def judge(self, owner: str, request_id: str, value: str) -> None:
        """Keep which way a thumb points; the thumb itself is safe already."""
        try:
            await asyncio.to_thread(self._kept.judge, owner, request_id, value)
        except LlmopsError:
            log.exception("the thumb of request %s is not in the history", request_id)

    async def list(self, owner: str, words: str, before: str | None, limit: int) -> list[Summary]:
        """A person's conversations, newest first, those before one of them.

        Raises:
            NotFoundError: there is no such one.
        """

        def read() -> list[Summary]:
            last = None if before is None else self._kept.summary(Place(owner, before))
            return self._kept.list(owner, words=words, before=last, limit=limit)

        return await asyncio.to_thread(read)

    async def read(self, place: Place, principal: Principal) -> Shown:
        """A person's conversation, without what they may no longer read."""
        return await asyncio.to_thread(lambda: self._shown(self._kept.read(place), principal))

    async def rename(self, place: Place, title: str) -> Summary:
        return await asyncio.to_thread(self._kept.rename, place, title)

    async def remove(self, place: Place) -> None:
        await asyncio.to_thread(self._kept.remove, place)

    async def remove_all(self, owner: str) -> int:
        return await asyncio.to_thread(self._kept.remove_all, owner)

    async def share(self, place: Place) -> str:
        """A link's word, for what has been said so far.

        Raises:
            DeniedError: this server shares nothing.
        """
        self._require_sharing()
        return await asyncio.to_thread(self._shares.share, place)

    async def revoke(self, place: Place) -> None:
        await asyncio.to_thread(self._shares.revoke, place)

    async def open(self, word: str, principal: Principal) -> Conversation:
        """What stands behind a link, for whoever may read every document it rests on.

        Raises:
            NotFoundError: no such link, or this server shares nothing any more.
            DeniedError: this reader may not read all of it.
        """
        if not self.config.sharing:
            raise NotFoundError("this link leads nowhere, or no longer", code="no_such_link")
        shown = await asyncio.to_thread(lambda: self._shown(self._shares.open(word), principal))
        if shown.withheld:
            raise DeniedError(
                "this conversation rests on documents that you may not read, or that are gone", code="not_all_readable"
            )
        return shown.conversation

    async def close(self) -> None:
        """Keep what was still being written."""
        self._tidying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tidying
        if self._writing:
            await asyncio.gather(*self._writing)

    async def _conclude(self, question: Question, outcome: Outcome) -> None:
        context = question.context
        try:
            concluded = Concluded(_status(outcome), _body(question, outcome), sources_of(outcome))
            await asyncio.to_thread(self._kept.conclude, context.principal.id, context.request_id, concluded)
        except LlmopsError:
            # The reader has the answer already, and the log its row.
            log.exception("the answer to request %s is not in the history", context.request_id)

    def _shown(self, conversation: Conversation, principal: Principal) -> Shown:
        readable: dict[tuple[str, str], bool] = {}
        for turn in conversation.turns:
            for uri in turn.sources:
                if (turn.endpoint, uri) not in readable:
                    readable[turn.endpoint, uri] = self._may_read(turn.endpoint, uri, principal)
        withheld: set[str] = set()
        for turn in conversation.turns:
            if not _all(readable, turn) or (withheld and not _is_quoted(turn)):
                withheld.add(turn.turn_id)  # what a model writes may repeat what was said before
        return Shown(conversation, frozenset(withheld))

    def _may_read(self, endpoint: str, uri: str, principal: Principal) -> bool:
        """Whether a document is there for this reader now; where that can't be known, it is not."""
        try:
            with self._endpoints.get(endpoint).use() as loaded:
                loaded.chain.passage(PassageRef(uri, 0, 1, ""), principal)
        except NotFoundError:
            return False
        except LlmopsError as error:
            log.warning("whether a source may be read is not known (%s); its answer is withheld", error.what)
            return False
        return True

    def _require_sharing(self) -> None:
        if not self.config.sharing:
            raise DeniedError(
                "conversations are not shared here", code="no_sharing", hint="`history.sharing: true` allows it"
            )

    async def _tidy(self) -> None:
        while self.config.days is not None:
            try:
                removed = await asyncio.to_thread(self._kept.remove_older, timedelta(days=self.config.days))
                if removed:
                    log.info("%d conversations were unused for %d days and are deleted", removed, self.config.days)
            except LlmopsError as error:
                log.warning("old conversations are not deleted yet: %s", error.what)
            await asyncio.sleep(TIDY_S)


def sources_of(outcome: Outcome) -> frozenset[str]:
    """The documents an answer rests on: of quotations, those it cites; of what a model wrote, all that it was shown.

    A model may say what a passage holds and cite another, or none; that it says it does not know is no proof either.
    """
    cited = frozenset(citation.uri for citation in outcome.citations)
    if outcome.done is not None and outcome.done.quoted:
        return cited
    return cited | frozenset(passage.uri for passage in outcome.passages) if outcome.answer else cited


def _status(outcome: Outcome) -> str:
    if outcome.error is None:
        return "done"
    return "stopped" if isinstance(outcome.error, Cancelled) else "failed"


def _body(question: Question, outcome: Outcome) -> dict[str, Any]:
    error = outcome.error.what if isinstance(outcome.error, LlmopsError) else None
    return {
        "answer": outcome.answer,
        "citations": [citation_json(citation) for citation in outcome.citations],
        "steps": [step_json(step) for step in outcome.steps],
        "info": served_json(question, outcome),
        "error": error,
    }


def _is_quoted(turn: Turn) -> bool:
    return bool((turn.body.get("info") or {}).get("quoted"))


def _all(readable: dict[tuple[str, str], bool], turn: Turn) -> bool:
    return all(readable[turn.endpoint, uri] for uri in turn.sources)

"""What serving does for a requester: answer, take a thumb, open a passage. The API puts HTTP around it.

It joins endpoints, places, ledger, tables and meters of one server, and knows no header and no status line.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Protocol

from llmops.core.chain import ChainContext, Message, PassageRef, PassageView
from llmops.core.errors import LlmopsError, TooLargeError, UnavailableError
from llmops.serving.config import ServeConfig
from llmops.serving.endpoint import Endpoints
from llmops.serving.exchange import Exchange, Places, Question
from llmops.serving.history import History
from llmops.serving.identity import Requester
from llmops.serving.ledger import Ledger
from llmops.serving.metrics import Metrics
from llmops.serving.record import Thumb, feedback_rows, inference_row
from llmops.serving.spans import close_span, open_span

log = logging.getLogger(__name__)

PASSAGE_S = 20.0


class Tables(Protocol):
    """The log tables, as far as serving writes and reads them."""

    def append(self, table: str, row: dict[str, Any]) -> None:
        """Hand a row over; a crash of the machine may lose the last few."""
        ...

    async def keep(self, table: str, row: dict[str, Any]) -> None:
        """Hand a row over; it is on the disk when this returns."""
        ...

    def find(self, table: str, column: str, value: str) -> list[dict[str, Any]]:
        """The rows with this value, also those on their way into the table."""
        ...


@dataclass(frozen=True)
class Asked:
    """A question as it came in, validated. `after` is the turn of the conversation that it follows."""

    endpoint: str
    messages: list[Message]
    body: dict[str, Any]
    request_id: str
    client_request_id: str | None = None
    session_id: str | None = None
    settings: dict[str, Any] | None = None
    traceparent: str | None = None
    after: str | None = None


class Service:
    """One server's work. Made inside its event loop."""

    def __init__(
        self, config: ServeConfig, endpoints: Endpoints, tables: Tables, history: History | None = None
    ) -> None:
        self.config = config
        self.endpoints = endpoints
        self.tables = tables
        self.history = history
        self.metrics = Metrics()
        self.places = Places(config.limits)
        self.ledger = Ledger(tables.find, config.inference_log, config.feedback)
        self.last_log_failure: str | None = None
        self.metrics.watch_places(self.places)
        for endpoint in endpoints:
            self.metrics.watch_endpoint(endpoint)

    def ask(self, requester: Requester, asked: Asked) -> Exchange:
        """Begin an exchange with the version in service.

        Raises:
            NotFoundError: no such endpoint.
            UnavailableError: it is still loading.
        """
        endpoint = self.endpoints.get(asked.endpoint)
        self.ledger.remember(asked.request_id, requester.principal.id, asked.endpoint)
        loaded = endpoint.acquire()
        context = ChainContext(
            request_id=asked.request_id,
            principal=requester.principal,
            session_id=asked.session_id,
            settings=asked.settings or {},
            traceparent=asked.traceparent,
        )
        told, context = open_span(asked.endpoint, loaded, asked.messages, context)
        question = Question(
            asked.endpoint, loaded, asked.messages, context, asked.body, asked.client_request_id, told=told
        )
        return Exchange(question, self.places, self.config.limits, self._account)

    async def ask_and_keep(self, requester: Requester, asked: Asked) -> Exchange:
        """As `ask`; a person's question is in their history before it is answered, and the answer after it.

        Raises:
            UserError, NotFoundError: it can't belong to the conversation that it names.
        """
        exchange = self.ask(requester, asked)
        if self.history is None or not requester.is_person or asked.session_id is None:
            return exchange
        try:
            await self.history.begin(exchange.question, asked.after)
        except LlmopsError as error:
            exchange.outcome.error = error
            exchange.finish()
            raise
        exchange.keep = self.history.conclude
        return exchange

    async def close(self) -> None:
        """End what still runs, and keep what it gave."""
        await self.places.close(patience_s=2.0)
        if self.history is not None:
            await self.history.close()

    async def give_feedback(self, requester: Requester, thumb: Thumb) -> bool:
        """Keep a thumb durably; False where this very one is in already. A later one of the same request supersedes it.

        Raises:
            NotFoundError, DeniedError: no such request, or not the requester's own.
            ConflictError: the feedback id is taken by another feedback.
        """
        limit = self.config.limits.comment_chars
        if thumb.comment is not None and len(thumb.comment) > limit:
            raise TooLargeError(f"the comment has more than {limit} characters", where="comment", hint="shorten it")
        entry = await self.ledger.entry(thumb.request_id, requester.principal.id)
        if await self.ledger.is_repeat(entry, thumb):
            return False
        for row in feedback_rows(thumb, requester.principal.id):
            await self.tables.keep(self.config.feedback, row)
        self.ledger.note(thumb)
        if self.history is not None and requester.is_person:
            await self.history.judge(requester.principal.id, thumb.request_id, thumb.value)
        self.metrics.feedback(entry.endpoint, thumb.value)
        return True

    async def open_passage(self, requester: Requester, endpoint: str, ref: PassageRef) -> PassageView:
        """A cited passage where it stands, if this requester may read its document.

        Raises:
            NotFoundError: no such endpoint, or no such document for this requester.
        """
        with self.endpoints.get(endpoint).use() as loaded:
            try:
                async with asyncio.timeout(PASSAGE_S):
                    return await asyncio.to_thread(loaded.chain.passage, ref, requester.principal)
            except TimeoutError:
                raise UnavailableError(f"the passage did not open within {PASSAGE_S:g} s") from None

    def _account(self, exchange: Exchange) -> None:
        if exchange.question.told is not None:
            close_span(exchange.question.told, exchange.outcome)
        self.metrics.exchange(exchange)
        try:
            self.tables.append(self.config.inference_log, inference_row(exchange.question, exchange.outcome))
        except LlmopsError as error:
            # The reader has the answer already: all that is left is to say loudly that its row is lost.
            self.last_log_failure = error.what
            self.metrics.lost(self.config.inference_log)
            log.exception("request %s has no row in the log", exchange.question.context.request_id)
        else:
            self.last_log_failure = None

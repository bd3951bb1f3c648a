"""An answer on its way back to the caller: whole, as a stream, or broken off. All that is good leaves here.

What the caller sees of a failure: before the first byte an error reply in its own format (`ClientCall.refuse`); after
it an error event in that format, then the end of the stream. Whom to ask, and what came of it, is others' business.
"""

from __future__ import annotations

from typing import Final

import orjson

from llmops.gateway import sse
from llmops.gateway.assemble import assembled
from llmops.gateway.cache import replayed
from llmops.gateway.calls import Fault, Headers, UpstreamCall, Usage
from llmops.gateway.engine import faults
from llmops.gateway.engine.admission import Grant
from llmops.gateway.engine.call import JSON_HEADER, NO_USAGE, ClientCall, clock
from llmops.gateway.engine.flow import Flow
from llmops.gateway.engine.plan import Target
from llmops.gateway.engine.record import usd

_MISS: Final = (b"x-llmops-cache", b"miss")


class Answering(ClientCall):
    """One client call, and its answer."""

    __slots__ = ("_call",)

    _call: UpstreamCall | None
    """The upstream call under way."""

    def _send_whole(self, body: bytes, model: str | None, usage: Usage, target: Target) -> None:
        """The answer that the caller gets; in events where it asked for a stream, and the server does not stream."""
        tab, responder = self.tab, self.responder
        events = replayed(self.operation, orjson.loads(body), self.body) if self.streaming else None
        tab.settle(True)
        self.done = True
        try:
            if events is None:
                own = [
                    (b"x-request-id", self.request_id.encode()),
                    (b"x-llmops-cost-usd", usd(tab.nano_usd).encode()),
                ]
                if self.recall is not None:
                    own.append(_MISS)
                assert self.grant is not None
                standing = self.grant.standing.get(target) or self._standing(self.grant, target)
                responder.send(200, own, body, standing)
            else:
                self._start(target)
                responder.write(events)
                responder.end()
            self.log_reply(200, None, (body, model, usage), target)
            if self.recall is not None:
                self.recall.keep(body, model, usage)
        finally:
            self.close()

    def _standing(self, grant: Grant, target: Target) -> Headers:
        """The headers that all whole replies by this target to this key share."""
        found = grant.standing[target] = (JSON_HEADER, self.route.header, target.header, *grant.rate_headers)
        return found

    def _write(self, out: bytes) -> None:
        responder = self.responder
        if not self.begun:
            assert self.target is not None
            self._start(self.target)
        responder.write(out)
        if responder.full and self._call is not None:
            self._call.pause()
            responder.on_drain = self._drained

    def _start(self, target: Target) -> None:
        self.begun = True
        self.first_at = clock()
        assert self.grant is not None
        headers = [*sse.HEADERS, (b"x-request-id", self.request_id.encode()), self.route.header, target.header]
        headers += self.grant.rate_headers
        if self.recall is not None:
            headers.append(_MISS)
        self.responder.start(200, headers)

    def _drained(self) -> None:
        self.responder.on_drain = None
        if self._call is not None:
            self._call.resume()

    def _end_stream(self, flow: Flow, usage: Usage, target: Target) -> None:
        self.tab.settle(asked=True)
        self.done = True
        try:
            self.responder.end()
            self.log_reply(200, None, (None, flow.state.model, usage), target)
            if self.recall is not None and not flow.cut:
                whole = assembled(self.operation, flow.kept)
                self.recall.keep(orjson.dumps(whole), flow.state.model, usage)
        finally:
            self.close()

    def _break_off(self, fault: Fault, target: Target, usage: Usage | None, flow: Flow | None) -> None:
        """After the first byte: an error event in the caller's format, then the end."""
        shown = faults.told(fault)
        self.tab.settle(asked=True)
        self.flow = flow
        model = flow.state.model if flow is not None else None
        self.done = True
        try:
            self.responder.write(self.dialect.writer(self.body).fault(shown))
            self.responder.end()
            self.log_reply(shown.status, fault.kind, (None, model, usage or NO_USAGE), target)
        finally:
            self.close()

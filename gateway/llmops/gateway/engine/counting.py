"""Asks a provider how many tokens a Messages request has. It goes the way of any call - key, route, guards, regions,
retries, a row - but costs nothing: it counts against ceilings on requests alone.

Source: https://platform.claude.com/docs/en/api/messages/count_tokens
"""

from __future__ import annotations

from typing import Final

from llmops.gateway.abilities import TokenCounter
from llmops.gateway.calls import Fault, Headers, Json, UpstreamRequest, Usage
from llmops.gateway.config import TargetConfig
from llmops.gateway.engine.call import NO_USAGE
from llmops.gateway.engine.exchange import Exchange
from llmops.gateway.engine.faults import refusal
from llmops.gateway.engine.measure import Size
from llmops.gateway.engine.plan import Target
from llmops.gateway.engine.record import Row
from llmops.gateway.reading import UPSTREAM

PATH: Final = "/v1/messages/count_tokens"


class FreeSize(Size):
    """The size of a request that nobody charges for."""

    __slots__ = ()

    def worst(self, target: TargetConfig, one: int | None = None) -> tuple[int, int]:
        return 0, 0

    def received(self, output_tokens: int) -> Usage:
        return Usage()


class TokenCount(Exchange):
    """One question for a number of tokens."""

    __slots__ = ()

    def admit(self) -> None:
        super().admit()
        size = self.size
        self.size = FreeSize(size.operation, size.body, size.raw_bytes, size.plain, size.images, size.input_estimate)
        self.streaming = False

    def _recalled(self) -> bool:
        return False

    def _write_rows(self, row: Row) -> None:
        row["tags"] = row["tags"] | {"operation": "count_tokens"}  # it made no message
        super()._write_rows(row)

    def _built(self, target: Target) -> UpstreamRequest:
        self.native = True
        if not isinstance(target.provider, TokenCounter):
            message = f"no target of `{self.route.name}` counts tokens"
            raise refusal(404, "operation_not_offered", message, "Anthropic's models do")
        return target.provider.count_tokens(self.body, target.config)

    def _replied(self, status: int, headers: Headers, body: bytes) -> None:
        target = self.target
        assert target is not None
        try:
            if status != 200:
                raise target.provider.fault(status, headers, body)
            value: Json = UPSTREAM.object(UPSTREAM.parsed(body, "reply"), "reply")
            if "input_tokens" not in value:
                raise UPSTREAM.fault("input_tokens", "is missing")
            UPSTREAM.count(value["input_tokens"], "input_tokens")
        except Fault as fault:
            self._failed(fault)
            return
        target.under_way -= 1
        target.breaker.success()
        self._call = None
        self._book(target, NO_USAGE)
        self._send_whole(body, None, NO_USAGE, target)

"""What a trace says of one call of a language model, by OpenTelemetry's conventions for generative AI.

Knows what was asked for and what came back; it calls nothing. Texts are told only where the configuration allows it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmops.core.chain import ChainContext, Message
from llmops.core.llm_wire import LlmEnd, LlmText, Sampling
from llmops.core.tracing import Span, keeps_content, said, span

if TYPE_CHECKING:
    from llmops.core.llm import LlmEndpoint


class CallSpan:
    """One call's span; `end` it. `traceparent` is what the call passes on: its own, or, tracing off, its caller's."""

    def __init__(
        self, endpoint: LlmEndpoint, messages: Sequence[Message], sampling: Sampling, context: ChainContext
    ) -> None:
        url = endpoint.completions_url
        self._began = time.monotonic()
        self._texts: list[str] | None = [] if keeps_content() else None
        self._first = True
        self.span: Span = span(
            f"chat {endpoint.model}",
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",  # whose format it speaks; who answers behind it, a gateway knows
                "gen_ai.request.model": endpoint.model,
                "gen_ai.request.max_tokens": sampling.max_tokens,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.stream": True,
                "server.address": url.host,
                "server.port": url.port or {"http": 80, "https": 443}[url.scheme],
            },
            parent=context.traceparent,
            kind="client",
        )
        self.traceparent = self.span.traceparent or context.traceparent
        if self._texts is not None:
            self.span.set({"gen_ai.input.messages": said([(one["role"], one["content"]) for one in messages])})

    def hear(self, event: LlmText | LlmEnd) -> None:
        if isinstance(event, LlmText):
            if self._first:
                self._first = False
                self.span.set({"gen_ai.response.time_to_first_chunk": time.monotonic() - self._began})
            if self._texts is not None:
                self._texts.append(event.text)
            return
        usage = event.usage
        self.span.set(
            {
                "gen_ai.response.finish_reasons": [event.finish_reason],
                "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
                "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
            }
        )

    def end(self) -> None:
        if self._texts is not None:
            self.span.set({"gen_ai.output.messages": said([("assistant", "".join(self._texts))])})
        self.span.end()

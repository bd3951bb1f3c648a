"""What a trace says of one exchange: the step that a question is, from its asking to what came of it.

Knows names of attributes; what is asked and answered is told only where the configuration says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmops.core.chain import ChainContext, Message
from llmops.core.tracing import Kind, Span, keeps_content, said, span
from llmops.serving.endpoint import Loaded
from llmops.serving.exchange import Outcome


def open_span(
    endpoint: str, loaded: Loaded, messages: Sequence[Message], context: ChainContext, kind: Kind = "server"
) -> tuple[Span, ChainContext]:
    """The step of the context's trace that an exchange is, or the root of its own, and the context of the steps within.

    `close_span` ends it.
    """
    told = span(
        f"invoke_workflow {endpoint}",
        {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": endpoint,
            "gen_ai.conversation.id": context.session_id,
            "gen_ai.input.messages": said([(one["role"], one["content"]) for one in messages])
            if keeps_content()
            else None,
            "llmops.request_id": context.request_id,
            "llmops.asset": str(loaded.ref.name),
            "llmops.version": loaded.ref.version,
        },
        parent=context.traceparent,
        kind=kind,
    )
    return told, replace(context, traceparent=told.traceparent or context.traceparent)


def close_span(told: Span, outcome: Outcome) -> None:
    """End an exchange's step with what came of it."""
    if told.recording:
        told.set(
            {
                "http.response.status_code": outcome.status_code,
                "llmops.index.generation": outcome.generation,
                "llmops.index.seq": outcome.index_seq,
                "llmops.retrieval.passages": len(outcome.passages),
                "llmops.citations": len(outcome.citations),
                "llmops.searches": len(outcome.steps) or None,
                "llmops.refused": outcome.done.refused if outcome.done else None,
                "gen_ai.output.messages": said([("assistant", outcome.answer)]) if keeps_content() else None,
            }
        )
        if outcome.error is not None:
            told.fail(outcome.error)
    told.end()

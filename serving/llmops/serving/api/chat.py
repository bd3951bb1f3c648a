"""Asking: `/v1/chat/completions` and `/v1/models`, as OpenAI's clients call them.

It turns a validated body into a question for the service; streaming is `reply`'s.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from llmops.core.tracing import TRACEPARENT_HEADER, read_traceparent
from llmops.serving.api.door import RequesterDep, ServiceDep
from llmops.serving.api.reply import ExchangeReply
from llmops.serving.api.wire import ChatRequest
from llmops.serving.endpoint import Endpoint
from llmops.serving.identity import request_ids
from llmops.serving.service import Asked

router = APIRouter(prefix="/v1", tags=["chat"])


@router.post("/chat/completions", response_model=None)
async def chat_completions(
    body: ChatRequest, request: Request, service: ServiceDep, requester: RequesterDep
) -> Response:
    """Ask an endpoint. `stream: true` gives server-sent events; citations come in both."""
    body.refuse_unsupported()
    request_id, client_request_id = request_ids(requester, request.headers.get("x-request-id"))
    asked = Asked(
        endpoint=body.model,
        messages=body.conversation(service.config.limits),
        body=body.model_dump(mode="json", exclude_unset=True),
        request_id=request_id,
        client_request_id=client_request_id,
        session_id=body.llmops.session_id,
        traceparent=read_traceparent(request.headers.get(TRACEPARENT_HEADER)),
        settings=body.settings(),
        after=body.llmops.after,
    )
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    exchange = await service.ask_and_keep(requester, asked)
    return ExchangeReply(exchange, stream=body.stream, include_usage=include_usage, still=requester.still)


@router.get("/models")
async def models(service: ServiceDep, requester: RequesterDep) -> dict[str, Any]:
    """The endpoints of this server; `llmops` says which version each serves now."""
    return {"object": "list", "data": [_model(endpoint) for endpoint in service.endpoints]}


@router.get("/models/{name}")
async def model(name: str, service: ServiceDep, requester: RequesterDep) -> dict[str, Any]:
    """One endpoint, as the list tells it."""
    return _model(service.endpoints.get(name))


def _model(endpoint: Endpoint) -> dict[str, Any]:
    loaded = endpoint.loaded
    return {
        "id": endpoint.name,
        "object": "model",
        "created": int(loaded.since) if loaded else 0,
        "owned_by": "llmops",
        "llmops": {
            "asset": str(endpoint.config.ref.name),
            "alias": endpoint.config.ref.alias,
            "version": loaded.ref.version if loaded else None,
        },
    }

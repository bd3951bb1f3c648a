"""What operators and the page ask of a server: alive, ready, metrics, and a browser's session."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from llmops.serving.api.door import RequesterDep, ServiceDep, identities_of
from llmops.serving.identity import SESSION_LIFE
from llmops.serving.metrics import CONTENT_TYPE

router = APIRouter()


@router.get("/healthz", tags=["operate"])
async def healthz() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


@router.get("/readyz", tags=["operate"])
async def readyz(service: ServiceDep) -> JSONResponse:
    """Whether every endpoint serves, and rows reach the log; 503 otherwise. A newer version that fails to load is told,
    but the one in service keeps the endpoint ready."""
    endpoints = {
        endpoint.name: {
            "serving": str(endpoint.loaded.ref) if endpoint.loaded else None,
            "problem": endpoint.problem,
        }
        for endpoint in service.endpoints
    }
    ready = all(endpoint.loaded for endpoint in service.endpoints) and service.last_log_failure is None
    body = {"ready": ready, "endpoints": endpoints, "log": service.last_log_failure or "ok"}
    return JSONResponse(body, status_code=200 if ready else 503)


@router.get("/metrics", tags=["operate"], response_class=Response)
async def metrics(service: ServiceDep, requester: RequesterDep) -> Response:
    """Prometheus' text format; needs a key where keys are required."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)


@router.post("/v1/session", tags=["chat"])
async def session(request: Request, response: Response, service: ServiceDep, requester: RequesterDep) -> dict[str, Any]:
    """What the page needs to begin, and a session cookie for a browser that has none.

    The cookie is given here and not with the page: a strict cookie is absent when a link of another site leads to the
    page, and a new one would cut the reader off from the earlier conversations.
    """
    config = service.config
    sessions = identities_of(request).sessions
    anonymous = not config.require_keys and not requester.is_person
    if anonymous and sessions.read(request.cookies.get(sessions.cookie)) is None:
        response.set_cookie(
            sessions.cookie, sessions.issue(), max_age=int(SESSION_LIFE.total_seconds()), path="/",
            httponly=True, samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip
    return {
        "endpoints": [
            {
                "name": endpoint.name,
                "title": endpoint.config.title or endpoint.name,
                "suggestions": endpoint.config.suggestions,
            }
            for endpoint in service.endpoints
        ],
        "question_chars": config.limits.question_chars,
        "comment_chars": config.limits.comment_chars,
        "registry": request.app.state.registry_pages,
        "person": {"id": requester.principal.id, "name": requester.person.name} if requester.person else None,
        "sharing": requester.is_person and config.history.sharing,
    }

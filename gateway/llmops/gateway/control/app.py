"""The control application: API and pages behind one door; every error in three parts, as JSON or as a page."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llmops.core.addresses import is_loopback, is_wildcard
from llmops.core.errors import LlmopsError, NotFoundError, UserError
from llmops.core.web.door import Door, DoorRules
from llmops.core.web.hosts import names_of
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.api import Json, api_routes
from llmops.gateway.control.office import Office
from llmops.gateway.control.pages import Pages

_log = logging.getLogger(__name__)


def build_app(office: Office) -> ASGIApp:
    """The whole application."""
    pages = Pages(office)

    def tell(request: Request, error: LlmopsError) -> Response:
        if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
            return Json(error.as_json(), status_code=error.http_status)
        return pages.error(request, error)

    async def foreseen(request: Request, error: Exception) -> Response:
        assert isinstance(error, LlmopsError)
        return tell(request, error)

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return tell(request, NotFoundError(f"nothing is at {request.url.path[:200]}"))
        refused = UserError(str(error.detail).lower())
        return Json(refused.as_json(), status_code=error.status_code, headers=dict(error.headers or {}))

    async def unforeseen(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return tell(request, LlmopsError("this is a defect of llmops; the log of the gateway has the details"))

    inside = Starlette(
        routes=[*api_routes(office), *pages.routes()],
        exception_handlers={LlmopsError: foreseen, HTTPException: unrouted, Exception: unforeseen},
    )
    return Door(inside, _rules(office.config()), office.sessions)


def _rules(config: GatewayConfig) -> DoorRules:
    """A wildcard address alone says nothing about who can reach it; it is called by its loopback names as well."""
    host = config.control.host
    names = names_of(host, config.allowed_hosts)
    return DoorRules(
        names=names | names_of("localhost", ()) if is_wildcard(host) else names,
        keys_only=not is_loopback(host),
        denied_hint="add the name to `allowed_hosts` of the gateway configuration if it is meant",
    )

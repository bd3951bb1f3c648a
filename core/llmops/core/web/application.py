"""A server-rendered application behind its door: JSON for programs, pages for people, and every error in three parts.

Knows how Starlette hands errors over. Which routes there are, and how a page of an error looks, is each part's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from llmops.core.errors import LlmopsError, NotFoundError, UserError
from llmops.core.web.door import Door, DoorRules
from llmops.core.web.sign_in import KeySessions

_log = logging.getLogger(__name__)


class Json(Response):
    """A document for a program; what JSON has no form for, such as money, is text."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, default=str)


async def object_of(request: Request) -> dict[str, Any]:
    """The JSON object that a program sent.

    Raises:
        UserError: the body is something else.
    """
    try:
        value = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise UserError(f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError("the body is no JSON object")
    return value


class ErrorPage(Protocol):
    def error(self, request: Request, error: LlmopsError) -> Response:
        """An error as a page."""
        ...


def behind_door(routes: Sequence[BaseRoute], pages: ErrorPage, rules: DoorRules, sessions: KeySessions) -> ASGIApp:
    """The whole application; what lies below `/api/` always speaks JSON."""
    telling = _Telling(pages, f"{rules.prefix}/api/")
    handlers = {LlmopsError: telling.foreseen, HTTPException: telling.unrouted, Exception: telling.unforeseen}
    return Door(Starlette(routes=routes, exception_handlers=handlers), rules, sessions)


@dataclass(frozen=True)
class _Telling:
    """Each kind of error as a response."""

    pages: ErrorPage
    api: str

    async def foreseen(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, LlmopsError)
        return self._tell(request, error)

    async def unrouted(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, LlmopsError):
            return self._tell(request, error.__cause__)  # a body was too large, or came too slowly
        if error.status_code == 404:
            return self._tell(request, NotFoundError(f"nothing is at {request.url.path[:200]}"))
        refused = UserError(str(error.detail).lower())
        return Json(refused.as_json(), status_code=error.status_code, headers=dict(error.headers or {}))

    async def unforeseen(self, request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return self._tell(request, LlmopsError("this is a defect of llmops; the log of this server has the details"))

    def _tell(self, request: Request, error: LlmopsError) -> Response:
        if request.url.path.startswith(self.api) or "text/html" not in request.headers.get("accept", ""):
            return Json(error.as_json(), status_code=error.http_status)
        return self.pages.error(request, error)

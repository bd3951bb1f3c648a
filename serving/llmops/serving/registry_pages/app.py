"""The application of the registry's pages behind its own door, and the split that sets it beside the chat."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.core.errors import LlmopsError, NotFoundError, UserError
from llmops.core.keys import REGISTRY_SCOPE, Keys
from llmops.core.people.accounts import Accounts
from llmops.core.web.door import Door, DoorRules
from llmops.core.web.hosts import names_of
from llmops.core.web.sign_in import KeySessions
from llmops.registry.assets import Registry
from llmops.registry.workflow import Workflows
from llmops.serving.config import ServeConfig
from llmops.serving.registry_pages.desk import People
from llmops.serving.registry_pages.pages import PREFIX, Json, Pages
from llmops.serving.sign_in.operators import Operators
from llmops.serving.sign_in.reception import Reception

_log = logging.getLogger(__name__)


class Beside:
    """ASGI: what lies below a prefix goes to one application, everything else to the other."""

    def __init__(self, app: ASGIApp, prefix: str, below: ASGIApp) -> None:
        self._app = app
        self._prefix = prefix
        self._below = below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] in ("http", "websocket") else ""
        inside = path == self._prefix or path.startswith(f"{self._prefix}/")
        await (self._below if inside else self._app)(scope, receive, send)


@dataclass(frozen=True)
class Rooms:
    """What the pages are about; whoever opened it closes it."""

    registry: Registry
    workflows: Workflows


def with_registry_pages(app: ASGIApp, config: ServeConfig, rooms: Rooms, reception: Reception | None = None) -> ASGIApp:
    """The application with the registry's pages below `/registry`."""
    return Beside(app, PREFIX, build_pages(config, rooms, reception))


def build_pages(config: ServeConfig, rooms: Rooms, reception: Reception | None = None) -> ASGIApp:
    """The pages with their door. Whoever shows a key acts as it, and whoever signed in as a person; without either, on
    loopback and where nobody has to sign in, as this machine."""
    keys = Keys(rooms.registry.sql)
    sessions = KeySessions.open(config.state.root, keys, REGISTRY_SCOPE)
    pages = Pages(rooms.registry, rooms.workflows, People(keys, Accounts(rooms.registry.sql)), sessions)

    def tell(request: Request, error: LlmopsError) -> Response:
        if request.url.path.startswith(f"{PREFIX}/api/") or "text/html" not in request.headers.get("accept", ""):
            return Json(error.as_json(), status_code=error.http_status)
        return pages.error(request, error)

    async def foreseen(request: Request, error: Exception) -> Response:
        assert isinstance(error, LlmopsError)
        return tell(request, error)

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, LlmopsError):
            return tell(request, error.__cause__)
        if error.status_code == 404:
            return tell(request, NotFoundError(f"nothing is at {request.url.path[:200]}"))
        refused = UserError(str(error.detail).lower())
        return Json(refused.as_json(), status_code=error.status_code, headers=dict(error.headers or {}))

    async def unforeseen(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return tell(request, LlmopsError("this is a defect of llmops; the log of the server has the details"))

    inside = Starlette(
        routes=[Route(PREFIX, _home), Mount(PREFIX, routes=pages.routes())],
        exception_handlers={LlmopsError: foreseen, HTTPException: unrouted, Exception: unforeseen},
    )
    operators = Operators(reception) if reception is not None else None
    return Door(inside, _rules(config, operators), sessions)


async def _home(_request: Request) -> Response:
    return RedirectResponse(f"{PREFIX}/", status_code=307)


def _rules(config: ServeConfig, people: Operators | None) -> DoorRules:
    return DoorRules(
        names=names_of(config.host, config.names),
        keys_only=config.require_keys or config.sign_in is not None or not config.loopback,
        denied_hint="add the name to `allowed_hosts` of the serve configuration if it is meant",
        prefix=PREFIX,
        people=people,
    )

"""The ASGI application: routes, the guard around them, and every error in OpenAI's shape.

It joins what the other modules make; the process around it (socket, signals, drainer) is `server`'s.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from llmops.core.errors import LlmopsError
from llmops.core.signing import signing_key
from llmops.core.sql import Sql
from llmops.serving.api import chat, conversations, documents, judge, operate
from llmops.serving.config import ServeConfig, refuse_open_door
from llmops.serving.endpoint import Endpoints, VersionSource
from llmops.serving.guard import Guard, error_response
from llmops.serving.history import History
from llmops.serving.identity import Identities, KeyVerifier, Sessions
from llmops.serving.indexes import IndexDesk
from llmops.serving.pages import Pages
from llmops.serving.registry_pages.app import Rooms
from llmops.serving.service import Service, Tables
from llmops.serving.sign_in.reception import Reception
from llmops.serving.sign_in.routes import SignInRoutes

log = logging.getLogger(__name__)

API_VERSION = "1"


@dataclass(frozen=True)
class Backing:
    """What a server stands on: where versions come from, where rows go, which keys there are, and whose pages it shows.

    Args:
        rooms: whose pages stand beside the chat; None: there are none.
        sql: where people and their conversations are kept; needed where people sign in.
        indexes: where operators look after the documents of indexes; None: not here.
    """

    source: VersionSource
    tables: Tables
    keys: KeyVerifier
    rooms: Rooms | None = None
    sql: Sql | None = None
    indexes: IndexDesk | None = None


class _HttpError(LlmopsError):
    """An error of the framework's own (no such route, wrong method), told like ours."""

    def __init__(self, status: int, what: str, code: str, where: str | None = None) -> None:
        super().__init__(what, where=where, code=code)
        self.status = status

    @property
    def http_status(self) -> int:  # type: ignore[override]
        return self.status


def build_app(
    config: ServeConfig, backing: Backing, endpoints: Endpoints, reception: Reception | None = None
) -> FastAPI:
    """The application of one serve job.

    Args:
        reception: where people sign in; None: nobody does.

    Raises:
        ConfigError: strangers could use it without a key.
    """
    refuse_open_door(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        history = None
        if reception is not None and backing.sql is not None:
            history = History(config.history, backing.sql, endpoints)
        app.state.service = service = Service(config, endpoints, backing.tables, history)
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="llmops serving", version=API_VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        middleware=[Middleware(Guard, config=config)],
    )  # fmt: skip
    app.state.registry_pages = "/registry/" if backing.rooms is not None else None
    app.state.indexes = backing.indexes
    app.state.identities = Identities(config, Sessions.open(config.state.root), backing.keys, reception)
    for router in (chat.router, judge.router, conversations.router, documents.router, operate.router):
        app.include_router(router)
    Pages.packaged().attach(app)
    if reception is not None:
        app.router.routes.append(SignInRoutes(reception, config.endpoints[0].title or "llmops").mount())
    app.add_exception_handler(LlmopsError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_defect)
    return app


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LlmopsError)
    return error_response(error)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or None
    return error_response(_HttpError(400, str(first["msg"]), "invalid_request", where))


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, LlmopsError):  # the framework wraps what our guard says while a body is read
        return error_response(error.__cause__)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return error_response(_HttpError(error.status_code, str(error.detail), code), dict(error.headers or {}))


def reception_of(config: ServeConfig, backing: Backing) -> Reception | None:
    """Where people sign in, where the configuration wants them to."""
    if config.sign_in is None or backing.sql is None:
        return None
    secret = signing_key(config.state.root / "session.key", lost="delete it: browsers then sign in again")
    return Reception(config.sign_in, backing.sql, secret, https=config.https)


async def _on_defect(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(LlmopsError("the server failed; its log says why"))

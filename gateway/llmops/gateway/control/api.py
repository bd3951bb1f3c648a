"""The control's JSON API: keys, routes, usage, budgets, processes, alerts, reload.

Each endpoint reads its parameters, asks the office, and gives the same facts that the pages show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from llmops.core.errors import ConflictError, UserError
from llmops.core.web.application import Json, object_of
from llmops.gateway.control import views
from llmops.gateway.control.acts import SERVICE, asker, require_operator
from llmops.gateway.control.meters import prometheus
from llmops.gateway.control.office import Office, reload_gateway
from llmops.gateway.control.usage import Wanted
from llmops.gateway.control.wishes import read_wish
from llmops.registry.authority import Authority

Endpoint = Callable[[Request], Awaitable[Response]]


def api_routes(office: Office) -> list[BaseRoute]:
    """Everything under /api, /metrics and /healthz."""
    api = _Api(office)
    return [
        Route("/healthz", api.health),
        Route("/metrics", api.metrics),
        Route("/api/now", api.now),
        Route("/api/routes", api.routes),
        Route("/api/processes", api.processes),
        Route("/api/reload", api.reload, methods=["POST"]),
        Route("/api/keys", api.keys),
        Route("/api/keys", api.create_key, methods=["POST"]),
        Route("/api/keys/{key_id}/revoke", api.revoke_key, methods=["POST"]),
        Route("/api/keys/{key_id}", api.revoke_key, methods=["DELETE"]),
        Route("/api/budgets", api.budgets),
        Route("/api/usage", api.usage),
        Route("/api/requests", api.requests),
        Route("/api/alerts", api.alerts),
    ]


class _Api:
    def __init__(self, office: Office) -> None:
        self._office = office

    async def health(self, _request: Request) -> Response:
        return Json({"status": "ok"})

    async def metrics(self, _request: Request) -> Response:
        merged = await asyncio.to_thread(self._office.watch.read)
        own = await asyncio.to_thread(lambda: "\n".join(views.lines_of(self._office)))
        return Response(f"{prometheus(merged)}{own}\n", media_type="text/plain; version=0.0.4; charset=utf-8")

    async def now(self, _request: Request) -> Response:
        return Json(await asyncio.to_thread(views.now, self._office))

    async def routes(self, _request: Request) -> Response:
        return Json({"routes": await asyncio.to_thread(views.routes, self._office)})

    async def processes(self, _request: Request) -> Response:
        return Json(await asyncio.to_thread(views.processes, self._office))

    async def reload(self, request: Request) -> Response:
        await asyncio.to_thread(ask_reload, self._office, asker(request, self._office.authority))
        return Json({"asked": True}, status_code=202)

    async def keys(self, _request: Request) -> Response:
        found = await asyncio.to_thread(self._office.keys.list)
        return Json({"keys": [key.as_json() for key in found]})

    async def create_key(self, request: Request) -> Response:
        wish = read_wish(await object_of(request))
        office = self._office
        by = asker(request, office.authority)
        token, key = await asyncio.to_thread(office.keys.create, wish, office.config(), by)
        await asyncio.to_thread(office.publisher.attempt)
        return Json({"token": token, **key.as_json()}, status_code=201)

    async def revoke_key(self, request: Request) -> Response:
        by = asker(request, self._office.authority)
        key = await asyncio.to_thread(self._office.keys.revoke, request.path_params["key_id"], by)
        await asyncio.to_thread(self._office.publisher.publish)
        return Json(key.as_json())

    async def budgets(self, _request: Request) -> Response:
        found = await asyncio.to_thread(self._office.budgets)
        return Json({"budgets": [one.as_json() for one in found]})

    async def usage(self, request: Request) -> Response:
        wanted, by = Wanted.read(request.query_params), request.query_params.get("by", "route")
        lines = await asyncio.to_thread(self._office.usage.sums, by, wanted)
        total = await asyncio.to_thread(self._office.usage.total, wanted)
        return Json({"by": by, "usage": [line.as_json() for line in lines], "total": total.as_json()})

    async def requests(self, request: Request) -> Response:
        limit = request.query_params.get("limit", "100")
        if not (limit.isascii() and limit.isdigit()):
            raise UserError("`limit` is a whole number", where="limit")
        wanted = Wanted.read(request.query_params)
        rows = await asyncio.to_thread(
            self._office.usage.rows, wanted, int(limit[:6]), request.query_params.get("before")
        )
        return Json({"requests": rows})

    async def alerts(self, _request: Request) -> Response:
        found = await asyncio.to_thread(self._office.alerts.list)
        return Json({"alerts": [alert.as_json() for alert in found]})


def ask_reload(office: Office, by: Authority) -> None:
    """Have the supervisor read its configuration again; how that went is told by the processes' view.

    Raises:
        ConflictError: this control process has no supervisor.
        DeniedError: they may not.
    """
    with by.acting("reload", SERVICE):
        with office.sql.read() as connection:
            require_operator(connection, by)
        if not reload_gateway(office.folder):
            raise ConflictError("no supervisor runs here that could reload", hint="start it with `llmops gateway`")

"""The pages: overview, routes, keys, usage, requests, sign-in. Rendered here, without a build step.

A page's address says everything it shows (time, filter, grouping), so that it can be sent to somebody; each number
leads to its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from llmops.core.errors import LlmopsError
from llmops.core.web import plots
from llmops.core.web.pages import Templates, clock, form_of, money, seconds, whole
from llmops.core.web.sign_in import SignInPage
from llmops.gateway.control import views
from llmops.gateway.control.acts import asker
from llmops.gateway.control.api import ask_reload
from llmops.gateway.control.keys import ADMIN, IDS
from llmops.gateway.control.office import Office
from llmops.gateway.control.usage import Sums, Wanted, days
from llmops.gateway.control.wishes import PERIODS, read_wish

SPANS: Final = (("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"), ("90d", "90 days"))
GROUPS: Final = ("team", "key", "model", "route", "day", "error")
PAGE_ROWS: Final = 100
PAGES: Final = (("/", "Overview"), ("/routes", "Routes"), ("/keys", "Keys"), ("/usage", "Usage"))


class Pages:
    """All pages over one office."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._templates = Templates("llmops.gateway.control", "llmops gateway", PAGES)
        self._sign_in = SignInPage(self._templates, office.sessions, home="/")

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.overview),
            Route("/routes", self.route_list),
            Route("/keys", self.keys),
            Route("/keys", self.create_key, methods=["POST"]),
            Route("/keys/{key_id}/revoke", self.ask_revoke),
            Route("/keys/{key_id}/revoke", self.revoke_key, methods=["POST"]),
            Route("/usage", self.usage),
            Route("/requests", self.requests),
            Route("/reload", self.reload, methods=["POST"]),
            *self._sign_in.routes(),
            *self._templates.routes(),
        ]

    def error(self, request: Request, error: LlmopsError) -> Response:
        """An error as a page."""
        return self._templates.page(request, "error.html", error.http_status, error=error)

    async def overview(self, request: Request) -> Response:
        office = self._office
        now, processes = await asyncio.to_thread(lambda: (views.now(office), views.processes(office)))
        alerts = [alert for alert in await asyncio.to_thread(office.alerts.list) if alert.ended_at is None]
        today = Wanted.read({"since": datetime.now(UTC).strftime("%Y-%m-%d")})
        total = await asyncio.to_thread(office.usage.total, today)
        return self._templates.page(
            request, "overview.html", now=now, processes=processes, alerts=alerts, total=total, today=today,
            plots=_overview_plots(office),
        )  # fmt: skip

    async def route_list(self, request: Request) -> Response:
        found = await asyncio.to_thread(views.routes, self._office)
        return self._templates.page(request, "routes.html", routes=found)

    async def keys(self, request: Request, made: Any = None, problem: LlmopsError | None = None) -> Response:
        office = self._office
        found = await asyncio.to_thread(office.keys.list)
        standings = await asyncio.to_thread(office.budgets)
        budgets: dict[str, list[Any]] = {}
        for one in standings:
            budgets.setdefault(one.subject, []).append(one)
        config = office.config()
        return self._templates.page(
            request, "keys.html", problem.http_status if problem else 200, budgets=budgets,
            keys=sorted(found, key=lambda one: one.state != "active"),
            others=[one for one in standings if not one.subject.startswith("key:")], made=made, problem=problem,
            routes=[route.name for route in config.routes], teams=sorted(config.teams), periods=PERIODS,
            scopes=(IDS, ADMIN), require_keys=config.require_keys, form=request.scope.get("form", {}),
        )  # fmt: skip

    async def create_key(self, request: Request) -> Response:
        form = await form_of(request)
        request.scope["form"] = {name: values[0] for name, values in form.items()}
        office = self._office
        try:
            wish = read_wish(_wanted_key(form))
            by = asker(request, office.authority)
            made = await asyncio.to_thread(office.keys.create, wish, office.config(), by)
        except LlmopsError as error:
            if error.http_status >= 500:
                raise
            return await self.keys(request, problem=error)
        await asyncio.to_thread(office.publisher.attempt)
        request.scope["form"] = {}
        return await self.keys(request, made=made)

    async def ask_revoke(self, request: Request) -> Response:
        key_id = request.path_params["key_id"]
        found = [key for key in await asyncio.to_thread(self._office.keys.list) if key.key.key_id == key_id]
        return self._templates.page(request, "revoke.html", 200 if found else 404, key=found[0] if found else None)

    async def revoke_key(self, request: Request) -> Response:
        by = asker(request, self._office.authority)
        await asyncio.to_thread(self._office.keys.revoke, request.path_params["key_id"], by)
        await asyncio.to_thread(self._office.publisher.publish)
        return RedirectResponse("/keys", status_code=303)

    async def usage(self, request: Request) -> Response:
        office, params = self._office, dict(request.query_params)
        wanted, by = Wanted.read(params), params.get("by", "team")
        lines = await asyncio.to_thread(office.usage.sums, by, wanted)
        by_day = days(wanted, await asyncio.to_thread(office.usage.sums, "day", wanted))
        if by == "day":
            lines = [line for line in by_day if line.requests][::-1]
        names = {f"key:{key.key.key_id}": key.key.name for key in await asyncio.to_thread(office.keys.list)}
        return self._templates.page(
            request, "usage.html", by=by, wanted=wanted, lines=lines, names=names, spans=SPANS, groups=GROUPS,
            total=await asyncio.to_thread(office.usage.total, wanted), plots=_day_plots(wanted, by_day), params=params,
        )  # fmt: skip

    async def requests(self, request: Request) -> Response:
        params = dict(request.query_params)
        wanted = Wanted.read(params)
        rows = await asyncio.to_thread(self._office.usage.rows, wanted, PAGE_ROWS, params.get("before"))
        return self._templates.page(
            request,
            "requests.html",
            marked="/usage",
            rows=rows,
            wanted=wanted,
            params=params,
            full=len(rows) == PAGE_ROWS,
        )  # fmt: skip

    async def reload(self, request: Request) -> Response:
        await asyncio.to_thread(ask_reload, self._office, asker(request, self._office.authority))
        return RedirectResponse("/", status_code=303)


def _overview_plots(office: Office) -> dict[str, Any]:
    rates = office.watch.rates()
    labels = [clock(rate.time) for rate in rates]
    return {
        "traffic": plots.line_plot(
            "Requests and errors a second", labels,
            [plots.Line("requests", [rate.requests_per_s for rate in rates]),
             plots.Line("errors", [rate.errors_per_s for rate in rates])], _short,
        ),
        "latency": plots.line_plot(
            "Latency: median and 95th percentile", labels,
            [plots.Line("median", [rate.p50_s for rate in rates]),
             plots.Line("95%", [rate.p95_s for rate in rates])], seconds,
        ),
        "cost": plots.line_plot(
            "Cost a minute", labels, [plots.Line("cost", [rate.usd_per_min for rate in rates])], money
        ),
        "rates": rates[-12:][::-1],
    }  # fmt: skip


def _day_plots(wanted: Wanted, lines: list[Sums]) -> dict[str, Any]:
    def href(line: Sums) -> str:
        return f"/requests?{wanted.but('day', line.group).query}"

    cost = [
        plots.Bar(line.group[5:], float(line.cost_usd), f"{line.group}: {money(line.cost_usd)}", href(line))
        for line in lines
    ]
    requests = [
        plots.Bar(line.group[5:], line.requests, f"{line.group}: {whole(line.requests)} requests", href(line))
        for line in lines
    ]
    return {
        "cost": plots.bar_plot("Cost by day", cost, money),
        "requests": plots.bar_plot("Requests by day", requests, _short),
    }


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _wanted_key(form: Mapping[str, list[str]]) -> dict[str, Any]:
    """The form of the keys page as `read_wish` takes it."""
    many = {"routes", "scopes"}
    values: dict[str, Any] = {name: (found if name in many else found[0]) for name, found in form.items()}
    amount, period = values.pop("budget_usd", ""), values.pop("budget_period", "month")
    if amount:
        values["budgets"] = [f"{amount}/{period}"]
    return values

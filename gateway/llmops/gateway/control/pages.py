"""The pages: overview, routes, keys, usage, requests, sign-in. Rendered here, without a script or a build step.

A page's address says everything it shows (time, filter, grouping), so that it can be sent to somebody; each number
leads to its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from llmops.core.errors import LlmopsError
from llmops.gateway.control import plots, views
from llmops.gateway.control.api import ask_reload
from llmops.gateway.control.door import COOKIE, SESSION_S, SIGN_IN
from llmops.gateway.control.keys import ADMIN, IDS
from llmops.gateway.control.office import Office
from llmops.gateway.control.usage import Sums, Wanted, days
from llmops.gateway.control.wishes import PERIODS, read_wish

SPANS: Final = (("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"), ("90d", "90 days"))
GROUPS: Final = ("team", "key", "model", "route", "day", "error")
PAGE_ROWS: Final = 100


class Pages:
    """All pages over one office."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._templates = Environment(
            loader=PackageLoader("llmops.gateway.control", "web"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "money": money,
            "whole": whole,
            "seconds": seconds,
            "percent": percent,
            "ago": ago,
            "clock": clock,
        }
        self._templates.globals |= {"dict": dict, "share_bar": plots.share_bar, "query": urlencode}
        self._files = {name: _file(name) for name in ("style.css", "icon.svg")}

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
            Route(SIGN_IN, self.sign_in_form),
            Route(SIGN_IN, self.sign_in, methods=["POST"]),
            Route("/style.css", self.file),
            Route("/icon.svg", self.file),
        ]

    def error(self, request: Request, error: LlmopsError) -> Response:
        """An error as a page."""
        return self._page(request, "error.html", error.http_status, error=error)

    async def overview(self, request: Request) -> Response:
        office = self._office
        now, processes = await asyncio.to_thread(lambda: (views.now(office), views.processes(office)))
        alerts = [alert for alert in await asyncio.to_thread(office.alerts.list) if alert.ended_at is None]
        today = Wanted.read({"since": datetime.now(UTC).strftime("%Y-%m-%d")})
        total = await asyncio.to_thread(office.usage.total, today)
        return self._page(
            request, "overview.html", now=now, processes=processes, alerts=alerts, total=total, today=today,
            plots=_overview_plots(office),
        )  # fmt: skip

    async def route_list(self, request: Request) -> Response:
        found = await asyncio.to_thread(views.routes, self._office)
        return self._page(request, "routes.html", routes=found)

    async def keys(self, request: Request, made: Any = None, problem: LlmopsError | None = None) -> Response:
        office = self._office
        found = await asyncio.to_thread(office.keys.list)
        standings = await asyncio.to_thread(office.budgets)
        budgets: dict[str, list[Any]] = {}
        for one in standings:
            budgets.setdefault(one.subject, []).append(one)
        config = office.config()
        return self._page(
            request, "keys.html", problem.http_status if problem else 200, budgets=budgets,
            keys=sorted(found, key=lambda one: one.state != "active"),
            others=[one for one in standings if not one.subject.startswith("key:")], made=made, problem=problem,
            routes=[route.name for route in config.routes], teams=sorted(config.teams), periods=PERIODS,
            scopes=(IDS, ADMIN), require_keys=config.require_keys, form=request.scope.get("form", {}),
        )  # fmt: skip

    async def create_key(self, request: Request) -> Response:
        form = await _form(request)
        request.scope["form"] = {name: values[0] for name, values in form.items()}
        office = self._office
        try:
            wish = read_wish(_wanted_key(form))
            made = await asyncio.to_thread(office.keys.create, wish, office.config(), request.scope["operator"])
        except LlmopsError as error:
            if error.http_status >= 500:
                raise
            return await self.keys(request, problem=error)
        await asyncio.to_thread(office.publisher.publish)
        request.scope["form"] = {}
        return await self.keys(request, made=made)

    async def ask_revoke(self, request: Request) -> Response:
        key_id = request.path_params["key_id"]
        found = [key for key in await asyncio.to_thread(self._office.keys.list) if key.key.key_id == key_id]
        return self._page(request, "revoke.html", 200 if found else 404, key=found[0] if found else None)

    async def revoke_key(self, request: Request) -> Response:
        await asyncio.to_thread(self._office.keys.revoke, request.path_params["key_id"])
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
        return self._page(
            request, "usage.html", by=by, wanted=wanted, lines=lines, names=names, spans=SPANS, groups=GROUPS,
            total=await asyncio.to_thread(office.usage.total, wanted), plots=_day_plots(wanted, by_day), params=params,
        )  # fmt: skip

    async def requests(self, request: Request) -> Response:
        params = dict(request.query_params)
        wanted = Wanted.read(params)
        rows = await asyncio.to_thread(self._office.usage.rows, wanted, PAGE_ROWS, params.get("before"))
        return self._page(
            request, "requests.html", rows=rows, wanted=wanted, params=params, full=len(rows) == PAGE_ROWS
        )

    async def reload(self, _request: Request) -> Response:
        ask_reload(self._office)
        return RedirectResponse("/", status_code=303)

    async def sign_in_form(self, request: Request) -> Response:
        return self._page(request, "sign-in.html", problem=None)

    async def sign_in(self, request: Request) -> Response:
        token = (await _form(request)).get("key", [""])[0].strip()
        try:
            cookie = await asyncio.to_thread(self._office.sessions.sign_in, token)
        except LlmopsError as error:
            return self._page(request, "sign-in.html", error.http_status, problem=error)
        response = RedirectResponse("/", status_code=303)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
        return response

    async def file(self, request: Request) -> Response:
        body, media_type, etag = self._files[request.url.path[1:]]
        headers = {"etag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)

    def _page(self, request: Request, template: str, status: int = 200, /, **values: Any) -> Response:
        context = {"path": request.url.path, "operator": request.scope.get("operator", ""), **values}
        return HTMLResponse(self._templates.get_template(template).render(context), status_code=status)


def money(value: Decimal | float) -> str:
    """Dollars, with as many digits as it takes to see that they are not nothing."""
    number = float(value)
    if number and abs(number) < 0.01:
        return f"${number:.6f}".rstrip("0")
    return f"${number:,.2f}"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.2f} s"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f}%" if 0 < value < 0.1 else f"{value * 100:.0f}%"


def ago(stamp: float) -> str:
    """How long ago a moment was; `never` for 0."""
    if not stamp:
        return "never"
    passed = max(0.0, datetime.now(UTC).timestamp() - stamp)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def clock(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).strftime("%H:%M:%S")


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


async def _form(request: Request) -> dict[str, list[str]]:
    return parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=False, max_num_fields=100)


def _wanted_key(form: Mapping[str, list[str]]) -> dict[str, Any]:
    """The form of the keys page as `read_wish` takes it."""
    many = {"routes", "scopes"}
    values: dict[str, Any] = {name: (found if name in many else found[0]) for name, found in form.items()}
    amount, period = values.pop("budget_usd", ""), values.pop("budget_period", "month")
    if amount:
        values["budgets"] = [f"{amount}/{period}"]
    return values


def _file(name: str) -> tuple[bytes, str, str]:
    body = (files("llmops.gateway.control") / "web" / name).read_bytes()
    media_type = {"css": "text/css; charset=utf-8", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
    return body, media_type, f'"{sha256(body).hexdigest()[:32]}"'

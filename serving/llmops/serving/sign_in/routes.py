"""The addresses of signing in and out: one rendered page, the way to a provider and back, and the cookies.

Every cookie is HttpOnly and, over https, Secure and bound to this host. What a request must show to change something
is checked here, as at every door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from llmops.core.errors import DeniedError, LlmopsError, UnauthenticatedError
from llmops.core.web.door import GUARD_HEADER
from llmops.core.web.hosts import is_own
from llmops.core.web.pages import Templates, first_of, form_of
from llmops.serving.sign_in.attempts import LIFE_S
from llmops.serving.sign_in.reception import Answer, Reception

PREFIX: Final = "/auth"
SIGN_IN: Final = f"{PREFIX}/sign-in"
HASHING_AT_ONCE: Final = 2
"""A password's hash takes 32 MB and a processor for a while; strangers ask for them, and others need threads, too."""


class SignInRoutes:
    """The pages below `/auth`."""

    def __init__(self, reception: Reception, title: str) -> None:
        self._reception = reception
        self._hashing = asyncio.Semaphore(HASHING_AT_ONCE)
        self._templates = Templates(__package__, title, (), PREFIX)

    def mount(self) -> Mount:
        routes = [
            Route("/sign-in", self._page),
            Route("/sign-in", self._by_password, methods=["POST"]),
            Route("/provider", self._to_provider),
            Route("/callback", self._from_provider),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/signed-out", self._signed_out),
            Route("/ended", self._ended_there, methods=["POST"]),
            Route("/", self._home),
            *self._templates.routes(),
        ]
        return Mount(PREFIX, routes=routes)

    async def _home(self, _request: Request) -> Response:
        return RedirectResponse("/", status_code=303)

    async def _page(self, request: Request) -> Response:
        return await self._form(request, own_path(request.query_params.get("next")))

    async def _form(
        self, request: Request, wanted: str, problem: LlmopsError | None = None, name: str = ""
    ) -> Response:
        config = self._reception.config
        empty = config.with_accounts and not await asyncio.to_thread(self._reception.has_accounts)
        return self._templates.page(
            request, "sign-in.html", problem.http_status if problem else 200, problem=problem, wanted=wanted, name=name,
            accounts=config.with_accounts, empty=empty, provider=config.oidc.name if config.oidc else None,
        )  # fmt: skip

    async def _by_password(self, request: Request) -> Response:
        require_own(request.headers)
        form = await form_of(request)
        login, password = first_of(form, "name"), form.get("password", [""])[0]
        wanted = own_path(first_of(form, "next"))
        address = request.client.host if request.client else ""
        try:
            if not self._reception.config.with_accounts:
                raise DeniedError("nobody signs in with a password here", code="no_accounts")
            async with self._hashing:
                token = await asyncio.to_thread(self._reception.by_password, login[:200], password, address)
        except LlmopsError as error:
            return await self._form(request, wanted, error, login[:200])
        return await self._entered(request, token, wanted)

    async def _to_provider(self, request: Request) -> Response:
        wanted = own_path(request.query_params.get("next"))
        try:
            way = await asyncio.to_thread(self._reception.way_to_provider, wanted, self._base_url(request))
        except LlmopsError as error:
            return await self._form(request, wanted, error)
        response = RedirectResponse(way[1], status_code=303)
        self._set(request, response, self._reception.attempt_cookie, way[0], LIFE_S)
        return response

    async def _from_provider(self, request: Request) -> Response:
        reception = self._reception
        cookie = request.cookies.get(reception.attempt_cookie, "")
        answer = Answer(cookie, dict(request.query_params), self._base_url(request))
        try:
            token, wanted = await asyncio.to_thread(reception.by_provider, answer)
        except LlmopsError as error:
            response = await self._form(request, "/", error)
        else:
            response = await self._entered(request, token, own_path(wanted))
        self._unset(response, reception.attempt_cookie)
        return response

    async def _entered(self, request: Request, token: str, wanted: str) -> Response:
        """A new cookie at each sign-in: one that somebody else put into the browser before is worth nothing after."""
        await asyncio.to_thread(self._reception.end_earlier, request.cookies)
        response = RedirectResponse(wanted, status_code=303)
        self._set(request, response, self._reception.cookie, token, int(self._reception.config.session_s))
        return response

    async def _sign_out(self, request: Request) -> Response:
        require_own(request.headers)
        everywhere = request.query_params.get("everywhere") == "1"
        leave = partial(self._reception.leave, request.cookies, self._base_url(request), everywhere=everywhere)
        end = await asyncio.to_thread(leave)
        response: Response
        if "application/json" in request.headers.get("accept", ""):
            response = JSONResponse({"next": end or f"{PREFIX}/signed-out"})
        else:
            # A page and no redirect: browsers hold a form's redirects against `form-action`, too.
            response = self._templates.page(request, "signed-out.html", end=end)
        self._unset(response, self._reception.cookie)
        return response

    async def _signed_out(self, request: Request) -> Response:
        return self._templates.page(request, "signed-out.html", end=None)

    async def _ended_there(self, request: Request) -> Response:
        """The provider itself asks this, not a browser: its signature counts, and no cookie.

        Source: OpenID Connect Back-Channel Logout 1.0, 2.8.
        """
        form = await form_of(request)
        try:
            await asyncio.to_thread(self._reception.ended_there, first_of(form, "logout_token"))
        except UnauthenticatedError as error:
            return JSONResponse({"error": "invalid_request", "error_description": error.what}, 400)
        return Response(status_code=200)

    def _base_url(self, request: Request) -> str:
        """How browsers reach this server. The Host header has been compared with the configured names at the door."""
        return self._reception.config.public_url or f"{request.url.scheme}://{request.headers['host']}"

    def _set(self, request: Request, response: Response, name: str, value: str, age_s: int) -> None:
        # Lax, not strict: a page opened by a link of another site, or by the provider, has to know its reader. What
        # changes something asks for more than the cookie.
        secure = self._reception.secure or request.url.scheme == "https"
        response.set_cookie(name, value, max_age=age_s, path="/", httponly=True, samesite="lax", secure=secure)

    def _unset(self, response: Response, name: str) -> None:
        secure = self._reception.secure
        response.delete_cookie(name, path="/", httponly=True, samesite="lax", secure=secure)


def sign_in_address(wanted: str) -> str:
    """The page that leads back to a path once its reader is known."""
    return f"{SIGN_IN}?next={quote(own_path(wanted), safe='/')}"


def own_path(wanted: str | None) -> str:
    """A path of this server, whatever was asked for; `/` where that leads elsewhere, in any browser's reading."""
    if not wanted or len(wanted) > 2000 or not wanted.startswith("/") or wanted.startswith("//"):
        return "/"
    if "\\" in wanted or any(not c.isprintable() or c.isspace() for c in wanted) or wanted.startswith(PREFIX):
        return "/"
    parts = urlsplit(wanted)
    return wanted if not parts.scheme and not parts.netloc else "/"


def require_own(headers: Mapping[str, Any]) -> None:
    """Refuse a change that comes with a cookie and does not show that a page of this server asked for it.

    Raises:
        DeniedError
    """
    origin = headers.get("origin")
    if origin is None and GUARD_HEADER in headers:
        return  # no page of another site can send this header without being asked first
    if origin is None or not is_own(origin, headers.get("host", "")):
        raise DeniedError(
            "a change needs to show where it comes from", code="unguarded", hint=f"programs send `{GUARD_HEADER}: 1`"
        )

"""The door of a server-rendered application: foreign hosts and origins, who may operate, and sealed responses.

On loopback whoever is on this machine operates, and a page of another site must reach nothing (DNS rebinding,
cross-site requests). On a public address a key is needed, as a bearer or by signing in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.core.errors import DeniedError, LlmopsError, UnauthenticatedError
from llmops.core.identity import LOCAL, Principal
from llmops.core.web import files
from llmops.core.web.asgi import SEALS, Header, bounded, check_length, sealing
from llmops.core.web.hosts import hostname, is_own
from llmops.core.web.sign_in import SIGN_IN, KeySessions

BODY_BYTES = 64 * 1024
BODY_S = 30.0
GUARD_HEADER = "x-llmops-control"
"""What a program sends with a change where it has no key: a page of another site cannot, without being asked first."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE_SEALS: tuple[Header, ...] = (
    *SEALS,
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""What every response of server-rendered pages carries."""
_OPEN = frozenset({"/healthz", "/icon.svg", SIGN_IN, *(f"/{name}" for name in files.shared())})


class PeoplesDoor(Protocol):
    """How people, and not keys, become known to a server-rendered application."""

    def operator(self, cookies: Mapping[str, str]) -> Principal | None:
        """Who is signed in with these cookies; None: nobody.

        Raises:
            DeniedError: somebody is, who may not operate.
        """
        ...

    def sign_in_address(self, wanted: str) -> str:
        """Where a browser signs in that wanted this path."""
        ...


@dataclass(frozen=True)
class DoorRules:
    """Who gets in.

    Args:
        names: host names by which clients may call this server.
        keys_only: nobody operates without a key; otherwise whoever is on this machine is `LOCAL`.
        denied_hint: what to do about a foreign host, naming the configuration.
        prefix: the path the application is mounted at.
        people: how people sign in, where they do.
    """

    names: frozenset[str]
    keys_only: bool
    denied_hint: str = "add the name to `allowed_hosts` of the configuration if it is meant"
    prefix: str = field(default="")
    people: PeoplesDoor | None = None


class Door:
    """ASGI middleware around the whole application. Puts the operator's `Principal` into `scope["operator"]`."""

    def __init__(self, app: ASGIApp, rules: DoorRules, sessions: KeySessions) -> None:
        self._app = app
        self._rules = rules
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        sealed = sealing(send, PAGE_SEALS)
        try:
            self._check(request)
        except LlmopsError as error:
            await self._refusal(request, error)(scope, receive, sealed)
            return
        await self._app(scope, bounded(receive, BODY_BYTES, BODY_S), sealed)

    def _check(self, request: Request) -> None:
        headers = request.headers
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or hostname(host) not in self._rules.names:
            raise DeniedError(
                f"this server is not called `{host[:100]}`", code="foreign_host", hint=self._rules.denied_hint
            )
        check_length(headers.get("content-length", "0"), BODY_BYTES)
        changing = request.method not in ("GET", "HEAD")
        own = _own_origin(headers)
        if own is False or (own is None and headers.get("sec-fetch-site") in ("cross-site", "same-site") and changing):
            raise DeniedError("pages of other sites may not call this server", code="foreign_origin")
        if changing and own is None and "authorization" not in headers and GUARD_HEADER not in headers:
            raise DeniedError(
                "a change needs to show where it comes from",
                code="unguarded",
                hint=f"programs send `{GUARD_HEADER}: 1`, or `Authorization: Bearer` with a key",
            )
        request.scope["operator"] = self._operator(request)

    def _operator(self, request: Request) -> Principal:
        shown = request.headers.get("authorization", "")
        if shown and (self._rules.keys_only or shown.lower().startswith("bearer lk_")):
            return self._sessions.bearer(shown)  # whoever shows a key acts as it, on loopback too
        operator = self._sessions.read(request.cookies.get(self._sessions.cookie, ""))
        if operator is None and self._rules.people is not None:
            operator = self._rules.people.operator(request.cookies)
        if operator is not None:
            return operator
        if not self._rules.keys_only or request.url.path.removeprefix(self._rules.prefix) in _OPEN:
            return LOCAL
        scope = self._sessions.scope
        raise UnauthenticatedError(
            f"this needs a key with the scope {scope}", hint=f"`llmops keys create NAME --scope {scope}` makes one"
        )

    def _refusal(self, request: Request, error: LlmopsError) -> Response:
        """An error as its response; a browser without a session is led to the sign-in."""
        wants_page = "text/html" in request.headers.get("accept", "") and request.method == "GET"
        if error.http_status == 401 and wants_page:
            people = self._rules.people
            place = people.sign_in_address(request.url.path) if people else self._rules.prefix + SIGN_IN
            return RedirectResponse(place, status_code=303)
        headers = {"www-authenticate": "Bearer"} if error.http_status == 401 else {}
        return JSONResponse(error.as_json(), status_code=error.http_status, headers=headers)


def _own_origin(headers: Mapping[str, str]) -> bool | None:
    """Whether the Origin header is this server's own; None where there is none."""
    origin = headers.get("origin")
    return None if origin is None else is_own(origin, headers.get("host", ""))

"""The outer door: refuses foreign hosts and origins and oversized or endless bodies, and seals every response.

A page on another site must reach nothing here, not even over loopback (DNS rebinding, cross-site requests). It knows
headers and bytes only; who is asking is `identity`'s.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.core.errors import DeniedError, LlmopsError
from llmops.core.web.asgi import SEALS, Header, bounded, check_length, sealing
from llmops.core.web.door import PAGE_SEALS
from llmops.core.web.hosts import hostname, is_own, names_of
from llmops.serving.config import ServeConfig
from llmops.serving.sign_in.routes import PREFIX as SIGN_IN_PREFIX

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)

_SEALS: tuple[Header, ...] = (
    *SEALS,
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
)
_API = "/v1/"
_UNKEPT: Header = (b"cache-control", b"no-store")
"""Answers and passages are for who asked: no cache on the way, nor the browser's once they signed out, keeps any."""
_LIMIT = "`limits.body_bytes` sets this limit"


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app = app
        self._limits = config.limits
        self._hosts = names_of(config.host, config.names)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        seals = PAGE_SEALS if scope["path"].startswith(f"{SIGN_IN_PREFIX}/") else (*_SEALS, *self._cors(headers))
        if scope["path"].startswith(_API):
            seals = (*seals, _UNKEPT)
        sealed = sealing(send, seals)
        try:
            self._check_host(headers)
            self._check_origin(headers, scope["path"])
            check_length(headers.get("content-length", "0"), self._limits.body_bytes, _LIMIT)
        except LlmopsError as error:
            await error_response(error)(scope, receive, sealed)
            return
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await Response(status_code=204)(scope, receive, sealed)
            return
        limits = self._limits
        await self._app(scope, bounded(receive, limits.body_bytes, limits.body_timeout_s, _LIMIT), sealed)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or hostname(host) not in self._hosts:
            raise DeniedError(
                f"this server is not called `{host[:100]}`",
                code="foreign_host",
                hint="add the name to `allowed_hosts` of the serve configuration if it is meant",
            )

    def _check_origin(self, headers: Headers, path: str) -> None:
        origin = headers.get("origin")
        if origin is not None:
            if not is_own(origin, headers.get("host", "")) and origin.lower() not in self._origins:
                raise DeniedError(
                    f"pages of `{origin[:100]}` may not call this server",
                    code="foreign_origin",
                    hint="add the origin to `allowed_origins` of the serve configuration if it is meant",
                )
        elif path.startswith(_API) and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise DeniedError("pages of other sites may not call this server", code="foreign_origin")

    def _cors(self, headers: Headers) -> tuple[Header, ...]:
        origin = headers.get("origin")
        if origin is None or origin.lower() not in self._origins:
            return ()
        return (
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-expose-headers", b"x-request-id"),
            (b"access-control-max-age", b"600"),
            (b"vary", b"origin"),
        )


def error_response(error: LlmopsError, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as its HTTP response, in OpenAI's shape."""
    headers = dict(headers or {})
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.http_status in (429, 503):
        headers.setdefault("Retry-After", "1")
    return JSONResponse(error.as_json(), status_code=error.http_status, headers=headers)

"""The outer door: refuses foreign hosts and origins and oversized or endless bodies, and seals every response.

A page on another site must reach nothing here, not even over loopback (DNS rebinding, cross-site requests). It knows
headers and bytes only; who is asking is `identity`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops.core.addresses import LOOPBACK_NAMES, hostname, is_wildcard
from llmops.core.errors import DeniedError, LlmopsError, TooLargeError, UserError
from llmops.serving.config import ServeConfig

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)

SEALS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
)


class BodyTimeoutError(UserError):
    code = "body_timeout"
    http_status = 408


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app = app
        self._limits = config.limits
        self._hosts = allowed_names(config)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sealed = _sealing(send, self._cors(headers))
        try:
            self._check_host(headers)
            self._check_origin(headers, scope["path"])
            self._check_length(headers)
        except LlmopsError as error:
            await error_response(error)(scope, receive, sealed)
            return
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await Response(status_code=204)(scope, receive, sealed)
            return
        await self._app(scope, _bounded(receive, self._limits.body_bytes, self._limits.body_timeout_s), sealed)

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
            if not self._own(origin, headers) and origin.lower() not in self._origins:
                raise DeniedError(
                    f"pages of `{origin[:100]}` may not call this server",
                    code="foreign_origin",
                    hint="add the origin to `allowed_origins` of the serve configuration if it is meant",
                )
        elif path.startswith("/v1/") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise DeniedError("pages of other sites may not call this server", code="foreign_origin")

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)

    def _own(self, origin: str, headers: Headers) -> bool:
        """Same host and port as the request's own; the scheme may differ behind a TLS proxy."""
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == headers.get("host", "").lower()

    def _cors(self, headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
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


def allowed_names(config: ServeConfig) -> frozenset[str]:
    """The host names by which clients may call this server, without ports."""
    names = {name.lower().strip("[]") for name in config.allowed_hosts}
    if config.loopback:
        names |= LOOPBACK_NAMES
    if not is_wildcard(config.host):
        names.add(config.host.lower().strip("[]"))
    return frozenset(names)


def error_response(error: LlmopsError, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as its HTTP response, in OpenAI's shape."""
    headers = dict(headers or {})
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.http_status in (429, 503):
        headers.setdefault("Retry-After", "1")
    return JSONResponse(error.as_json(), status_code=error.http_status, headers=headers)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the request body is larger than {limit} bytes", hint="`limits.body_bytes` sets this limit")


def _sealing(send: Send, extra: Iterable[tuple[bytes, bytes]]) -> Send:
    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *SEALS, *extra]
        await send(message)

    return sealed


def _bounded(receive: Receive, limit: int, timeout_s: float) -> Receive:
    """Count a body as it arrives and bound its time; once it is whole, waiting for the disconnect is unbounded."""
    size = 0
    whole = False
    deadline = asyncio.get_running_loop().time() + timeout_s

    async def bounded() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise BodyTimeoutError(f"the request body did not arrive within {timeout_s:g} s") from None
        size += len(message.get("body", b""))
        if size > limit:
            raise _too_large(limit)
        whole = not message.get("more_body", False)
        return message

    return bounded

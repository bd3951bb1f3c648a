"""The control's own door: foreign hosts and origins, who may operate, and sealed responses.

On loopback whoever is on this machine operates, and a page of another site must reach nothing (DNS rebinding,
cross-site requests). On a public address a key with the scope `gateway:admin` is needed, as a bearer or by signing in.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops.core.addresses import LOOPBACK_NAMES, hostname, is_loopback
from llmops.core.errors import DeniedError, LlmopsError, TooLargeError, UnauthenticatedError
from llmops.core.files import write_atomic
from llmops.core.keys import Keys
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.keys import ADMIN

BODY_BYTES = 64 * 1024
COOKIE = "llmops_control"
SESSION_S = 12 * 3600
SIGN_IN = "/sign-in"
GUARD_HEADER = "x-llmops-control"
"""What a program sends with a change where it has no key: a page of another site cannot, without being asked first."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
SEALS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_OPEN = frozenset({"/healthz", "/style.css", "/icon.svg", SIGN_IN})
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - recognised, not bound


class Sessions:
    """Signed-in browsers: a key's id and an end, with their HMAC; the key is looked at again at each request."""

    def __init__(self, secret: bytes, keys: Keys) -> None:
        self._secret = secret
        self._keys = keys

    @classmethod
    def open(cls, folder: Path, keys: Keys) -> Sessions:
        """With the signing key of the folder, made where there is none yet."""
        path = folder / "session.key"
        if not path.exists():
            write_atomic(path, secrets.token_bytes(32), mode=0o600)
        return cls(path.read_bytes(), keys)

    def sign_in(self, token: str) -> str:
        """A cookie's value for whoever shows an admin key.

        Raises:
            UnauthenticatedError, DeniedError: the key is not valid, or not for this.
        """
        principal = self._keys.verify(token, ADMIN)
        value = f"{principal.id.removeprefix('key:')}.{int(time.time()) + SESSION_S}"
        return f"{value}.{self._sign(value)}"

    def read(self, cookie: str) -> str | None:
        """Who signed in, where the cookie is ours, not too old, and its key still works."""
        value, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(value).encode()):
            return None
        key_id, _, end = value.partition(".")
        if int(end) < time.time():
            return None
        for key in self._keys.list():
            if key.key_id == key_id and ADMIN in key.scopes and key.revoked_at is None:
                expired = key.expires_at is not None and key.expires_at.timestamp() <= time.time()
                return None if expired else f"key:{key_id}"
        return None

    def bearer(self, authorization: str) -> str:
        """Who shows this header; raises as `sign_in` does."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("the Authorization header holds no bearer key", hint="write `Bearer lk_...`")
        return self._keys.verify(token.strip(), ADMIN).id

    def _sign(self, value: str) -> str:
        return hmac.new(self._secret, b"control\0" + value.encode(), sha256).hexdigest()


class Door:
    """ASGI middleware around the whole control application. Puts the operator's name into `scope["operator"]`."""

    def __init__(self, app: ASGIApp, config: GatewayConfig, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions
        self._signed_in_only = not is_loopback(config.control.host)
        self._names = _names(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            self._check(request)
        except LlmopsError as error:
            await refusal(request, error)(scope, receive, _sealing(send))
            return
        await self._app(scope, _bounded(receive), _sealing(send))

    def _check(self, request: Request) -> None:
        headers = request.headers
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or hostname(host) not in self._names:
            raise DeniedError(
                f"this server is not called `{host[:100]}`",
                code="foreign_host",
                hint="add the name to `allowed_hosts` of the gateway configuration if it is meant",
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY_BYTES:
            raise _too_large()
        changing = request.method not in ("GET", "HEAD")
        own = _own_origin(headers)
        if own is False or (own is None and headers.get("sec-fetch-site") in ("cross-site", "same-site") and changing):
            raise DeniedError("pages of other sites may not call this server", code="foreign_origin")
        if changing and own is None and "authorization" not in headers and GUARD_HEADER not in headers:
            raise DeniedError(
                "a change needs to show where it comes from",
                code="unguarded",
                hint=f"programs send `{GUARD_HEADER}: 1`, or `Authorization: Bearer` with an admin key",
            )
        request.scope["operator"] = self._operator(request)

    def _operator(self, request: Request) -> str:
        if not self._signed_in_only or request.url.path in _OPEN:
            return "local"
        if "authorization" in request.headers:
            return self._sessions.bearer(request.headers["authorization"])
        operator = self._sessions.read(request.cookies.get(COOKIE, ""))
        if operator is None:
            raise UnauthenticatedError(
                "operating this gateway needs a key with the scope gateway:admin",
                hint="`llmops keys create NAME --scope gateway:admin` makes one",
            )
        return operator


def refusal(request: Request, error: LlmopsError) -> Response:
    """An error as its response; a browser without a session is led to the sign-in."""
    wants_page = "text/html" in request.headers.get("accept", "") and request.method == "GET"
    if error.http_status == 401 and wants_page:
        return RedirectResponse(SIGN_IN, status_code=303)
    headers = {"www-authenticate": "Bearer"} if error.http_status == 401 else {}
    return JSONResponse(error.as_json(), status_code=error.http_status, headers=headers)


def _names(config: GatewayConfig) -> frozenset[str]:
    bound = config.control.host.lower().strip("[]")
    names = {name.lower().strip("[]") for name in config.allowed_hosts}
    if is_loopback(bound) or bound in _WILDCARDS:
        names |= LOOPBACK_NAMES
    if bound not in _WILDCARDS:
        names.add(bound)
    return frozenset(names)


def _own_origin(headers: Mapping[str, str]) -> bool | None:
    """Whether the Origin header is this server's own; None where there is none."""
    origin = headers.get("origin")
    if origin is None:
        return None
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == headers.get("host", "").lower()


def _too_large() -> TooLargeError:
    return TooLargeError(f"the request body is larger than {BODY_BYTES} bytes")


def _sealing(send: Send) -> Send:
    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *SEALS]
        await send(message)

    return sealed


def _bounded(receive: Receive) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > BODY_BYTES:
            raise _too_large()
        return message

    return bounded

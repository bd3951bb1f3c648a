"""Operators of a server-rendered application: they sign in with a key once, and the browser keeps a sealed cookie.

The cookie holds a key's id and an end; the key itself is looked at again at each request, so that revoking it works at
once. Knows keys and their scope; what an operator may do is asked elsewhere.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from llmops.core.errors import LlmopsError, UnauthenticatedError
from llmops.core.identity import Principal
from llmops.core.keys import Keys
from llmops.core.signing import signing_key
from llmops.core.web.pages import Templates, first_of, form_of

SESSION_S = 12 * 3600
SIGN_IN = "/sign-in"
SIGN_OUT = "/sign-out"


class KeySessions:
    """Signed-in browsers and programs with a bearer, for keys of one scope."""

    def __init__(self, secret: bytes, keys: Keys, scope: str) -> None:
        self.scope = scope
        self.cookie = f"llmops_{scope.partition(':')[0]}_{sha256(b'cookie' + secret).hexdigest()[:8]}"
        self._secret = secret
        self._keys = keys

    @classmethod
    def open(cls, folder: Path, keys: Keys, scope: str) -> KeySessions:
        """With the signing key of the folder, made where there is none yet."""
        secret = signing_key(folder / "session.key", lost="delete it: whoever is signed in signs in again")
        return cls(secret, keys, scope)

    def sign_in(self, token: str) -> str:
        """A cookie's value for whoever shows a key.

        Raises:
            UnauthenticatedError, DeniedError: the key is not valid, or not for this.
        """
        principal = self._keys.verify(token, self.scope)
        value = f"{principal.id.removeprefix('key:')}.{int(time.time()) + SESSION_S}"
        return f"{value}.{self._sign(value)}"

    def read(self, cookie: str) -> Principal | None:
        """Who signed in, where the cookie is ours, not too old, and its key still works."""
        value, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(value).encode()):
            return None
        key_id, _, end = value.partition(".")
        return self._keys.working(key_id, self.scope) if int(end) >= time.time() else None

    def bearer(self, authorization: str) -> Principal:
        """Who shows this header; raises as `sign_in` does."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("the Authorization header holds no bearer key", hint="write `Bearer lk_...`")
        return self._keys.verify(token.strip(), self.scope)

    def _sign(self, value: str) -> str:
        return hmac.new(self._secret, f"{self.scope}\0{value}".encode(), sha256).hexdigest()


class SignInPage:
    """The one form that everybody sees, and the way out again."""

    def __init__(self, templates: Templates, sessions: KeySessions, home: str) -> None:
        self._templates = templates
        self._sessions = sessions
        self._home = home

    def routes(self) -> list[BaseRoute]:
        return [
            Route(SIGN_IN, self._form),
            Route(SIGN_IN, self._sign_in, methods=["POST"]),
            Route(SIGN_OUT, self._sign_out, methods=["POST"]),
        ]

    async def _form(self, request: Request) -> Response:
        return self._templates.page(request, "sign-in.html", problem=None, scope=self._sessions.scope)

    async def _sign_in(self, request: Request) -> Response:
        sessions = self._sessions
        try:
            cookie = await asyncio.to_thread(sessions.sign_in, first_of(await form_of(request), "key"))
        except LlmopsError as error:
            return self._templates.page(request, "sign-in.html", error.http_status, problem=error, scope=sessions.scope)
        response = RedirectResponse(self._home, status_code=303)
        secure = request.url.scheme == "https"
        response.set_cookie(sessions.cookie, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
        return response

    async def _sign_out(self, _request: Request) -> Response:
        response = RedirectResponse(self._home, status_code=303)
        response.delete_cookie(self._sessions.cookie, httponly=True, samesite="strict")
        return response

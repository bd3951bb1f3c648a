"""A provider of identities over real HTTP: OpenID Connect's code flow with PKCE, which can also misbehave on request.

It checks what a provider checks (client, redirect address, secret, verifier, one use of a code), signs with real keys,
and keeps what it was sent, so that a test can look for what should not be there.
"""

from __future__ import annotations

import base64
import html
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

CLIENT, SECRET = "llmops", "a secret: with %colons"


@dataclass(frozen=True)
class Key:
    kid: str
    private: rsa.RSAPrivateKey

    def public(self) -> dict[str, Any]:
        return {**RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True), "kid": self.kid, "use": "sig"}


@cache
def key(kid: str) -> Key:
    """A signing key; each is made once a process."""
    return Key(kid, rsa.generate_private_key(public_exponent=65537, key_size=2048))


@dataclass
class Code:
    nonce: str
    challenge: str
    redirect_uri: str
    used: bool = False


@dataclass
class OidcProvider:
    """What a test sets and sees.

    Args:
        person: the claims of whoever signs in next; None: they decline.
        change: alters the claims of each identity token before it is signed.
        sign: signs claims in a way of its own, instead of by `signing_key`.
        posts_secret: takes the client's secret in the form and nowhere else.
        asks: shows a page with a button, as a provider does; without it a browser is sent back at once.
    """

    issuer: str = ""
    person: dict[str, Any] | None = field(
        default_factory=lambda: {"sub": "ada", "preferred_username": "ada", "groups": []}
    )
    signing_key: Key = field(default_factory=lambda: key("one"))
    shown_keys: list[Key] = field(default_factory=lambda: [key("one")])
    change: Callable[[dict[str, Any]], None] | None = None
    sign: Callable[[dict[str, Any]], str] | None = None
    userinfo: dict[str, Any] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    answer_more: dict[str, str] = field(default_factory=dict)
    posts_secret: bool = False
    asks: bool = False
    codes: dict[str, Code] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    key_fetches: int = 0
    ended: list[dict[str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def description(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/end?kept=1",
            **({"token_endpoint_auth_methods_supported": ["client_secret_post"]} if self.posts_secret else {}),
            **self.described,
        }

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser is sent back to."""
        assert query["client_id"] == CLIENT
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        back = {"state": query["state"], **self.answer_more}
        if self.person is None:
            return f"{query['redirect_uri']}?{urlencode({**back, 'error': 'access_denied'})}"
        code = secrets.token_urlsafe(16)
        self.codes[code] = Code(query["nonce"], query["code_challenge"], query["redirect_uri"])
        return f"{query['redirect_uri']}?{urlencode({**back, 'code': code})}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        found = self.codes.get(form.get("code", ""))
        problem = self._problem(form, authorization, found)
        if problem or found is None:
            self.refusals.append(problem or "no such code")
            return (401 if problem == "client" else 400), {"error": "invalid_grant"}
        found.used = True
        token = self.id_token(found.nonce)
        access = secrets.token_urlsafe(16)
        self.tokens += [token, access]
        return 200, {"access_token": access, "token_type": "Bearer", "id_token": token, "expires_in": 60}

    def _problem(self, form: dict[str, str], authorization: str, code: Code | None) -> str | None:
        if self.posts_secret:
            proven = (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET) and not authorization
        else:
            shown = base64.b64decode(authorization.removeprefix("Basic ")).decode()
            proven = [unquote(part) for part in shown.split(":")] == [CLIENT, SECRET] and "client_secret" not in form
        if not proven:
            return "client"
        if code is None or code.used:
            return "code"
        if form.get("redirect_uri") != code.redirect_uri:
            return "redirect_uri"
        digest = base64.urlsafe_b64encode(sha256(form.get("code_verifier", "").encode()).digest()).decode().rstrip("=")
        return None if digest == code.challenge else "verifier"

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 60, "nonce": nonce, **(self.person or {})}
        if self.change is not None:
            self.change(claims)
        return self.sign(claims) if self.sign is not None else self.signed(claims)

    def signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.signing_key.private, "RS256", headers={"kid": self.signing_key.kid})

    def logout_token(self, **changed: Any) -> str:
        """What tells a client that somebody's session here has ended."""
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 60, "jti": secrets.token_hex(8),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}}, **changed,
        }  # fmt: skip
        return self.signed({name: value for name, value in claims.items() if value is not None})


@contextmanager
def running_provider() -> Iterator[OidcProvider]:
    """A provider on a free port of this machine until the block ends."""
    provider = OidcProvider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/.well-known/openid-configuration":
                self._json(200, provider.description())
            elif parts.path == "/keys":
                provider.key_fetches += 1
                self._json(200, {"keys": [shown.public() for shown in provider.shown_keys]})
            elif parts.path == "/userinfo":
                known = self.headers.get("authorization", "").removeprefix("Bearer ") in provider.tokens
                self._json(200 if known else 401, provider.userinfo)
            elif parts.path == "/authorize":
                back = provider.authorize(query)
                if provider.asks:
                    link = f'<!doctype html><title>Provider</title><a href="{html.escape(back)}">Yes, it is me</a>'
                    self._send(200, link.encode(), "text/html")
                else:
                    self._send(303, b"", "text/plain", back)
            elif parts.path == "/end":
                provider.ended.append(query)
                self._send(303, b"", "text/plain", query["post_logout_redirect_uri"])
            else:
                self._json(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            assert self.path == "/token"
            self._json(*provider.token(form, self.headers.get("authorization", "")))

        def _json(self, status: int, value: dict[str, Any]) -> None:
            self._send(status, json.dumps(value).encode(), "application/json")

        def _send(self, status: int, body: bytes, media_type: str, location: str | None = None) -> None:
            self.send_response(status)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body)))
            if location is not None:
                self.send_header("location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""Vertex AI's API for tests, and the service where its callers sign in.

`TokenServer` gives an access token to whom the public key of a service account proves, over TLS. `VertexServer` takes
the tokens that were given out, until their end, and then is as strict as Gemini's and Anthropic's own test servers:
the same words at other paths, but for what differs at Vertex AI.

Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference,
https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai,
https://developers.google.com/identity/protocols/oauth2/service-account#httprest
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.gemini import GeminiServer
from tests.support.upstreams.wire import KEY, Answer, Charge, Seen, WireServer, need

PROJECT, LOCATION = "a-project", "europe-west4"
EMAIL = "gateway@a-project.iam.gserviceaccount.com"

_PATH = re.compile(
    r"/v1/projects/([\w-]+)/locations/([\w-]+)/publishers/(google|anthropic)/models/([\w.@-]+):(\w+)(\?alt=sse)?"
)


class TokenServer:
    """Google's token service. `lasts_s` is how long its tokens are good; `refusal` is what it says instead, if set."""

    def __init__(self, cert: Path, key: Path) -> None:
        self.account_key = rsa.generate_private_key(65537, 2048)
        self.lasts_s = 3600
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.asked: list[dict[str, Any]] = []
        self.given: dict[str, float] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}/token"

    def key_file(self) -> dict[str, str]:
        """What Google's console gives for a service account's key."""
        pem = self.account_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "key-1",
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "client_id": "103",
            "token_uri": self.uri,
        }

    def good(self, token: str) -> bool:
        return self.given.get(token, 0.0) > time.time()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def exchange(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return 400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"}
        why = self._wrong(form.get("assertion", [""])[0])
        if why is not None:
            return 400, {"error": "invalid_grant", "error_description": why}
        if self.refusal is not None:
            return self.refusal
        token = f"ya29.test-{len(self.given)}"
        self.given[token] = time.time() + self.lasts_s
        return 200, {"access_token": token, "expires_in": self.lasts_s, "token_type": "Bearer"}

    def _wrong(self, assertion: str) -> str | None:
        """What Google would say of an assertion; the signature is checked with the public key."""
        parts = assertion.split(".")
        if len(parts) != 3:
            return "Invalid JWT"
        signed = ".".join(parts[:2]).encode()
        try:
            self.account_key.public_key().verify(_bytes(parts[2]), signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return "Invalid JWT Signature."
        head, claims = (json.loads(_bytes(part)) for part in parts[:2])
        self.asked.append(claims)
        now = time.time()
        if head != {"alg": "RS256", "typ": "JWT", "kid": "key-1"} or claims["iss"] != EMAIL:
            return "Invalid JWT header or issuer"
        if claims["aud"] != self.uri or claims["scope"] != "https://www.googleapis.com/auth/cloud-platform":
            return "Invalid audience or scope"
        if not now - 60 <= claims["iat"] <= now + 60 or claims["exp"] - claims["iat"] > 3600:
            return "Invalid JWT: Token must be a short-lived token"
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        exchange = self.exchange

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Tests read `asked`."""

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length", "0")))
                status, told = exchange(parse_qs(raw.decode()))
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def _bytes(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


@dataclass(frozen=True)
class _Asked:
    """A request, and how the maker's own server would have got it."""

    voice: WireServer
    seen: Seen
    method: str
    model: str


class VertexServer(WireServer):
    """`url` is the base URL, with /v1. `tokens` gave the tokens it takes; without it, it takes `KEY`."""

    base = "/v1"
    tokens: TokenServer | None = None
    place = (PROJECT, LOCATION)

    def check(self, seen: Seen) -> None:
        found = _PATH.fullmatch(seen.path)
        need(found and found.groups()[:2] == self.place, "Requested entity was not found.", 404)
        kind, _, token = seen.headers.get("authorization", "").partition(" ")
        good = token == KEY if self.tokens is None else self.tokens.good(token)
        need(kind == "Bearer" and good, "Request had invalid authentication credentials.", 401)
        need(not {"x-api-key", "x-goog-api-key", "anthropic-version"} & seen.headers.keys(), "a key of another API")
        asked = _asked(seen)
        if asked.method in ("predict", "embedContent"):
            _check_embedding(asked.method, seen.body)
            return
        if isinstance(asked.voice, AnthropicServer):
            need(seen.body.get("anthropic_version") == "vertex-2023-10-16", "anthropic_version: Field required")
            need(asked.model == "count-tokens" or "model" not in seen.body, "model: Extra inputs are not permitted")
            streamed = bool(seen.body.get("stream"))
            need(asked.method == ("streamRawPredict" if streamed else "rawPredict"), "stream does not fit the method")
        asked.voice.check(asked.seen)

    def streams(self, seen: Seen) -> bool:
        asked = _asked(seen)
        return asked.method not in ("predict", "embedContent") and asked.voice.streams(asked.seen)

    def whole(self, seen: Seen, answer: Answer) -> dict[str, Any]:
        asked = _asked(seen)
        if asked.method == "embedContent":
            usage = {"promptTokenCount": seen.input_tokens, "totalTokenCount": seen.input_tokens}
            return {"embedding": {"values": [0.1, 0.2, 0.0]}, "usageMetadata": usage, "truncated": False}
        if asked.method == "predict":
            counts = [seen.input_tokens, *[0 for _ in seen.body["instances"][1:]]]
            told = [
                {"values": [0.1, 0.2, float(n)], "statistics": {"truncated": False, "token_count": count}}
                for n, count in enumerate(counts)
            ]
            return {"predictions": [{"embeddings": embedding} for embedding in told]}
        return asked.voice.whole(asked.seen, answer)

    def cost(self, seen: Seen, answer: Answer) -> Charge:
        if _asked(seen).method in ("predict", "embedContent"):
            return Charge(seen.input_tokens, 0)
        return Charge(_asked(seen).seen.input_tokens, answer.output_tokens, answer.cached)

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        asked = _asked(seen)
        return asked.voice.events(asked.seen, answer)

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        """Anthropic's errors are told in its own words, Google's in Google's: quotas, keys, unknown models."""
        if kind.endswith("_error") and kind not in ("invalid_request_error", "api_error"):
            return _CLAUDE.error(status, kind, message)
        return _GEMINI.error(status, kind, message)

    def error_event(self, kind: str, message: str) -> bytes:
        return _CLAUDE.error_event(kind, message) if kind.endswith("_error") else _GEMINI.error_event(kind, message)


class _VertexGemini(GeminiServer):
    """The voice alone: no socket."""

    def __init__(self) -> None:
        self.requests = []


class _VertexClaude(AnthropicServer):
    def __init__(self) -> None:
        self.requests = []


_GEMINI, _CLAUDE = _VertexGemini(), _VertexClaude()


def _asked(seen: Seen) -> _Asked:
    match = _PATH.fullmatch(seen.path)
    need(match, "Not found", 404)
    assert match is not None
    publisher, model, method, sse = match.groups()[2:]
    if publisher == "google":
        headers = {**seen.headers, "x-goog-api-key": KEY}
        own = replace(seen, path=f"/v1beta/models/{model}:{method}{sse or ''}", headers=headers)
        return _Asked(_GEMINI, own, method, model)
    body = {name: value for name, value in seen.body.items() if name != "anthropic_version"}
    headers = {**seen.headers, "x-api-key": KEY, "anthropic-version": "2023-06-01"}
    path = "/v1/messages/count_tokens" if model == "count-tokens" else "/v1/messages"
    body = body if model == "count-tokens" else {**body, "model": model}
    return _Asked(_CLAUDE, Seen(path, headers, seen.raw, body), method, model)


def _check_embedding(method: str, body: dict[str, Any]) -> None:
    if method == "embedContent":
        need(body.keys() <= {"content", "outputDimensionality", "taskType", "title", "autoTruncate"}, "Unknown name")
        need(body["content"]["parts"][0]["text"], "content is empty")
        return
    need(body.keys() <= {"instances", "parameters"}, "Unknown name")
    need(all(instance.keys() <= {"content", "task_type", "title"} for instance in body["instances"]), "Unknown name")
    need(body.get("parameters", {}).keys() <= {"outputDimensionality", "autoTruncate"}, "Unknown name")

"""Signs a request as AWS asks it (Signature Version 4), from nothing but the request, a key and a moment.

Pure: no clock, no input or output. Knows the canonical form in which both sides hash a request; refuses to know which
service it is for. The path is encoded once more than it is sent, as every service but S3 wants it.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
_SESSION = "x-amz-security-token"
_UNRESERVED = "-_.~"
_SPACES = re.compile(r" +")

Header = tuple[str, str]


@dataclass(slots=True, frozen=True)
class AwsKeys:
    """Who signs. Only the id may ever be shown."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(slots=True, frozen=True)
class Scope:
    """What a signature is good for."""

    region: str
    service: str

    def on(self, day: str) -> str:
        return f"{day}/{self.region}/{self.service}/aws4_request"


@dataclass(slots=True, frozen=True)
class Message:
    """What is signed of a request. `target` is the path as it is sent, with its query; `host` is among the headers."""

    method: str
    target: str
    headers: Sequence[Header]
    body: bytes


class Signature:
    """Signs with one key in one scope. The key derived for a day is kept: it takes four of the five hashes."""

    __slots__ = ("_day", "_keys", "_scope", "_signing_key")

    def __init__(self, keys: AwsKeys, scope: Scope) -> None:
        self._keys = keys
        self._scope = scope
        self._day = ""
        self._signing_key = b""

    def headers(self, message: Message, moment: datetime) -> list[Header]:
        """The headers to send beside the message's own. `moment` is in UTC; AWS allows 5 minutes of difference."""
        when = moment.strftime("%Y%m%dT%H%M%SZ")
        day = when[:8]
        added = [("x-amz-date", when)]
        if self._keys.session_token is not None:
            added.append((_SESSION, self._keys.session_token))
        signed = [*message.headers, *added]
        canonical = canonical_request(message.method, message.target, signed, message.body)
        if day != self._day:
            self._day, self._signing_key = day, signing_key(self._keys.secret_access_key, day, self._scope)
        text = string_to_sign(when, self._scope.on(day), canonical)
        proof = hmac.new(self._signing_key, text.encode(), hashlib.sha256).hexdigest()
        credential = f"{self._keys.access_key_id}/{self._scope.on(day)}"
        value = f"{ALGORITHM} Credential={credential}, SignedHeaders={signed_names(signed)}, Signature={proof}"
        return [*added, ("authorization", value)]


def canonical_request(method: str, target: str, headers: Iterable[Header], body: bytes) -> str:
    """The one form of a request that both sides hash."""
    path, _, query = target.partition("?")
    found = _canonical_headers(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in found)
    names = ";".join(name for name, _ in found)
    digest = hashlib.sha256(body).hexdigest()
    return f"{method}\n{_canonical_path(path)}\n{_canonical_query(query)}\n{lines}\n{names}\n{digest}"


def string_to_sign(when: str, scope: str, canonical: str) -> str:
    return f"{ALGORITHM}\n{when}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def signing_key(secret: str, day: str, scope: Scope) -> bytes:
    """The key for one day, region and service; the secret itself signs nothing else."""
    key = b"AWS4" + secret.encode()
    for part in (day, scope.region, scope.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def signed_names(headers: Iterable[Header]) -> str:
    return ";".join(sorted({name.lower() for name, _ in headers}))


def _canonical_headers(headers: Iterable[Header]) -> list[Header]:
    """Sorted by name; runs of spaces are one, and a repeated header's values stand together in their order."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(_SPACES.sub(" ", value.strip()))
    return [(name, ",".join(values[name])) for name in sorted(values)]


def _canonical_path(path: str) -> str:
    """Without dot segments and doubled slashes (RFC 3986 section 6.2.2), each octet that is not unreserved encoded."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    whole = "/" + "/".join(kept) + ("/" if kept and path.endswith(("/", "/.", "/..")) else "")
    return quote(whole, safe="/" + _UNRESERVED)


def _canonical_query(query: str) -> str:
    """Sorted by name, then value. The query is encoded as it is sent, so it is not encoded again."""
    pairs = sorted(part.partition("=")[::2] for part in query.split("&") if part)
    return "&".join(f"{name}={value}" for name, value in pairs)

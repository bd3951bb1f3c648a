"""A service account of Google: reads its key, writes the assertion that is exchanged for a token, reads the token.

Pure: no clock, no input or output; whoever calls says what time it is. `cryptography`, which signs, is
loaded when the first such key is read.

Source: https://developers.google.com/identity/protocols/oauth2/service-account#httprest, RFC 7515, RFC 7523
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import orjson

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Fault, UpstreamRequest
from llmops.gateway.providers.faults import scrubbed
from llmops.gateway.reading import UPSTREAM

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LASTS_S = 3600
"""What Google allows at most for an assertion."""

_SPARE_S = 10.0
_FORM = ((b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json"))


@dataclass(slots=True, frozen=True)
class ServiceAccount:
    """Who signs in, and where."""

    email: str
    key_id: str
    token_uri: str
    key: RSAPrivateKey = field(repr=False)

    @classmethod
    def of(cls, document: str, where: str) -> ServiceAccount:
        """The account of a key file. Raises ConfigError, which shows nothing of the file."""
        told = _fields(document)
        texts = [told.get(name) for name in ("client_email", "private_key_id", "private_key")]
        uri = told.get("token_uri", "https://oauth2.googleapis.com/token")
        if told.get("type") != "service_account" or not all(isinstance(text, str) and text for text in texts):
            raise ConfigError(
                f"the credentials `{where}` are no key of a service account",
                hint='give the JSON that Google makes for a service account\'s key: its `type` is "service_account"',
            )
        if not isinstance(uri, str) or urlsplit(uri).scheme != "https" or not urlsplit(uri).hostname:
            raise ConfigError(f"the `token_uri` of the credentials `{where}` is no https:// address")
        return cls(str(texts[0]), str(texts[1]), uri, _private_key(str(texts[2]), where))

    @property
    def origin(self) -> str:
        parts = urlsplit(self.token_uri)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def host(self) -> str:
        return urlsplit(self.token_uri).hostname or ""


@dataclass(slots=True, frozen=True)
class Token:
    """An access token, how long it lasts from now, and until when it may be sent."""

    value: str = field(repr=False)
    lasts_s: float
    good_until: float


def assertion(account: ServiceAccount, now: float) -> str:
    """A JSON web token that says who asks for what, signed by the account's key (RS256)."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    issued = int(now)
    head = {"alg": "RS256", "typ": "JWT", "kid": account.key_id}
    claims = {
        "iss": account.email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": issued,
        "exp": issued + LASTS_S,
    }
    signed = f"{_base64(orjson.dumps(head))}.{_base64(orjson.dumps(claims))}"
    return f"{signed}.{_base64(account.key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def token_request(account: ServiceAccount, now: float) -> UpstreamRequest:
    """The request that exchanges an assertion for an access token."""
    body = urlencode({"grant_type": GRANT, "assertion": assertion(account, now)}).encode()
    return UpstreamRequest(urlsplit(account.token_uri).path or "/", _FORM, body)


def read_token(status: int, body: bytes, now: float) -> Token:
    """The token of a reply.

    Raises:
        Fault: `unauthenticated` where the key is refused, `overloaded` where the service failed, `invalid`.
    """
    if status != 200:
        raise _refused(status, body)
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    value = UPSTREAM.text(told.get("access_token"), "access_token")
    if not value or not value.isascii() or not value.isprintable():
        raise UPSTREAM.fault("access_token", "holds what no header can carry")
    lasts_s = float(UPSTREAM.count(told.get("expires_in"), "expires_in"))
    return Token(value, lasts_s, now + lasts_s - min(_SPARE_S, lasts_s / 4))


def _refused(status: int, body: bytes) -> Fault:
    told = _fields(body)
    words = [text for text in (told.get("error"), told.get("error_description")) if isinstance(text, str)]
    why = scrubbed(": ".join(words)) or f"status {status}"
    return Fault("unauthenticated" if 400 <= status < 500 and status != 429 else "overloaded", why)


def _fields(document: str | bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(document)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _private_key(pem: str, where: str) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"the `private_key` of the credentials `{where}` cannot be read") from None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError(f"the `private_key` of the credentials `{where}` is not an RSA key")
    return key


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()

"""One way to a provider and back, remembered by the browser: sealed, short-lived, and worth nothing to another one.

The cookie holds a random seed; state, nonce and PKCE verifier are derived from it with the server's key, so that the
verifier never leaves the server, and nothing is stored for whoever only knocks.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from llmops.core.errors import UnauthenticatedError

LIFE_S: Final = 600
"""How long a person may take at the provider."""


@dataclass(frozen=True)
class Attempt:
    """`next` is the path that was wanted; the rest is what OpenID Connect and PKCE exchange."""

    seed: str
    next: str
    state: str
    nonce: str
    verifier: str

    @property
    def challenge(self) -> str:
        """The verifier's hash, which the provider is shown first. Source: RFC 7636, 4.2."""
        return _text(sha256(self.verifier.encode()).digest())


class Attempts:
    """Makes attempts and knows its own again."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def begin(self, wanted: str) -> tuple[str, Attempt]:
        """(cookie's value, attempt) of a new way."""
        seed = secrets.token_urlsafe(32)
        value = f"{seed}.{int(time.time()) + LIFE_S}.{_text(wanted.encode(errors='replace'))}"
        return f"{value}.{self._derived('seal', value)}", self._attempt(seed, wanted)

    def read(self, cookie: str, state: str) -> Attempt:
        """The attempt of this browser that the answer with this state belongs to.

        Raises:
            UnauthenticatedError: it is none, another's, or too old.
        """
        value, _, seal = cookie.rpartition(".")
        if hmac.compare_digest(seal.encode(), self._derived("seal", value).encode()):
            seed, end, wanted = value.split(".")
            attempt = self._attempt(seed, base64.urlsafe_b64decode(wanted + "==").decode())
            if hmac.compare_digest(attempt.state.encode(), state.encode(errors="replace")) and time.time() < int(end):
                return attempt
        raise UnauthenticatedError(
            "this sign-in was not begun in this browser, or took too long", code="not_begun_here", hint="sign in again"
        )

    def _attempt(self, seed: str, wanted: str) -> Attempt:
        return Attempt(seed, wanted, *(self._derived(name, seed) for name in ("state", "nonce", "verifier")))

    def _derived(self, name: str, value: str) -> str:
        text = f"sign-in\0{name}\0{value}".encode(errors="replace")
        return _text(hmac.new(self._secret, text, sha256).digest())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")

"""Passwords as they are kept: scrypt with a salt each, its cost beside it, so that the cost can be raised later.

Knows no account. A password never leaves here, nor does an error or a log line show one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from llmops.core.errors import UserError

LEAST_CHARS: Final = 10
MOST_CHARS: Final = 200


@dataclass(frozen=True)
class Cost:
    """How dear one guess is: 2**log2_n * 8 * 128 bytes of memory, gone through `p` times.

    Source: OWASP Password Storage Cheat Sheet, scrypt with N=2^15, r=8, p=3.
    """

    log2_n: int = 15
    p: int = 3


STANDARD: Final = Cost()


def hash_password(password: str, cost: Cost = STANDARD) -> str:
    """A password's hash, with all that it takes to check it again.

    Raises:
        UserError: it is too short to be one, or too long to be looked at.
    """
    if not LEAST_CHARS <= len(password) <= MOST_CHARS:
        raise UserError(
            f"a password has {LEAST_CHARS} to {MOST_CHARS} characters", hint="several words are easy to keep"
        )
    salt = secrets.token_bytes(16)
    return f"scrypt${cost.log2_n}${cost.p}${_text(salt)}${_text(_scrypt(password, salt, cost))}"


def is_right(password: str, kept: str | None) -> bool:
    """Whether this is the password behind a hash. Without one it takes just as long, and it is not."""
    _, log2_n, p, salt, expected = (kept or _NOBODY).split("$")
    given = password if len(password) <= MOST_CHARS else ""
    found = _scrypt(given, base64.b64decode(salt), Cost(int(log2_n), int(p)))
    return hmac.compare_digest(found, base64.b64decode(expected)) and kept is not None


def made_up() -> str:
    """A password nobody has thought of: 120 random bits in letters, digits, - and _."""
    return secrets.token_urlsafe(15)


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    n = 1 << cost.log2_n
    room = 128 * 8 * n * 2
    return hashlib.scrypt(password.encode(errors="surrogatepass"), salt=salt, n=n, r=8, p=cost.p, maxmem=room, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


_NOBODY: Final = f"scrypt${STANDARD.log2_n}${STANDARD.p}${_text(bytes(16))}${_text(bytes(32))}"

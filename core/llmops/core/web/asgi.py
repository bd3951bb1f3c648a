"""ASGI's messages on their way in and out: every response sealed, every body bounded in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from starlette.types import Message, Receive, Send

from llmops.core.errors import TooLargeError, UserError

Header = tuple[bytes, bytes]

SEALS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""What every response carries; each door adds its content security policy."""


class BodyTimeoutError(UserError):
    code = "body_timeout"
    http_status = 408


def sealing(send: Send, headers: Iterable[Header]) -> Send:
    """A `send` that adds these headers to every response."""
    added = tuple(headers)

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *added]
        await send(message)

    return sealed


def bounded(receive: Receive, limit: int, timeout_s: float, hint: str | None = None) -> Receive:
    """A `receive` that counts a body as it arrives and bounds its time; waiting for the disconnect is unbounded.

    Raises, where the body is read:
        TooLargeError, BodyTimeoutError: it is larger, or came too slowly.
    """
    size = 0
    whole = False
    deadline = asyncio.get_running_loop().time() + timeout_s

    async def counted() -> Message:
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
            raise too_large(limit, hint)
        whole = not message.get("more_body", False)
        return message

    return counted


def check_length(length: str, limit: int, hint: str | None = None) -> None:
    """Refuse a body that its own header says to be too large.

    Raises:
        TooLargeError
    """
    if not length.isdigit() or int(length) > limit:
        raise too_large(limit, hint)


def too_large(limit: int, hint: str | None = None) -> TooLargeError:
    return TooLargeError(f"the request body is larger than {limit} bytes", hint=hint)

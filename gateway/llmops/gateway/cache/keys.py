"""When two requests are the same request, who may share an answer, and what the caller says of caching.

A key is the SHA-256 of the route, its version, the operation, the scope of the requester, and the body in one spelling;
it is a cryptographic digest because whoever finds two bodies with one key could read another's answer.
Sampling is not looked at: a route that caches gives an answer again whatever its temperature was, unless the
configuration says `sampled: false`.

Source: RFC 9111 section 5.2.1 (what a request may ask of a cache).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import orjson

from llmops.gateway.calls import Json, KeyPolicy, Operation

Scope = Literal["groups", "key", "everyone"]
# What changes nothing in the answer: how it travels, whose bill and whose statistics it is.
_VOLATILE = frozenset({
    "stream", "stream_options", "user", "metadata", "store", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "service_tier", "model",
})  # fmt: skip
# What makes an answer depend on more than the body: a provider's memory, or work done elsewhere.
_STATEFUL = frozenset(
    {"previous_response_id", "conversation", "background", "container", "mcp_servers", "web_search_options"}
)
_SAMPLED_BY_DEFAULT = frozenset({"chat", "completions", "responses", "messages"})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request's `cache-control` allows."""

    read: bool = True
    write: bool = True
    only: bool = False
    max_age_s: float | None = None


_ANY = Wishes()


def read_wishes(header: bytes | None) -> Wishes:
    """`no-store`: neither look nor keep. `no-cache`: ask anew, and keep. `max-age`: no older answer. Else ignored."""
    if header is None:
        return _ANY
    read = write = True
    only, max_age = False, None
    for part in header.decode("latin-1").lower().split(","):
        name, _, value = part.strip().partition("=")
        if name == "no-store":
            read = write = False
        elif name == "no-cache":
            read = False
        elif name == "only-if-cached":
            only = True
        elif name == "max-age":
            digits = value.strip('" ')
            max_age = float(digits[:9]) if digits.isascii() and digits.isdigit() else 0.0
    return Wishes(read, write, only, max_age)


def scope_of(per: Scope, policy: KeyPolicy | None) -> bytes:
    """Whose answers these are. Callers without a key have no groups, and share with whoever has none."""
    if per == "everyone":
        return b"everyone"
    if per == "key":
        return orjson.dumps(["key", policy.key_id if policy else None])
    return orjson.dumps(["groups", sorted(policy.groups) if policy else []])


def cacheable(operation: Operation, body: Json, sampled: bool) -> bool:
    """Whether the body alone decides the answer."""
    if not _STATEFUL.isdisjoint(body) and any(body.get(name) for name in _STATEFUL):
        return False
    if not sampled and operation in _SAMPLED_BY_DEFAULT and body.get("temperature") != 0:
        return False
    tools = body.get("tools")
    return not tools or (isinstance(tools, list) and all(map(_is_the_callers, tools)))


def _is_the_callers(tool: object) -> bool:
    """A tool that the caller runs; Anthropic's have no type, or `custom`."""
    return isinstance(tool, dict) and tool.get("type", "function") in ("function", "custom")


def key_of(parts: Iterable[bytes], body: Json, without: str | None = None) -> bytes | None:
    """The key of a body in its setting; None for one too deep to be written down. `without` leaves a field out."""
    kept = {name: value for name, value in body.items() if name not in _VOLATILE and name != without}
    try:
        spelled = orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return None
    digest = sha256()
    for part in (*parts, spelled):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()

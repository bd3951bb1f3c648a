"""How OpenAI's API tells an error: the words its clients act upon. Shared by every dialect but Anthropic's.

Knows statuses, types and codes; decides nothing.

Source: https://platform.openai.com/docs/guides/error-codes/api-errors
"""

from __future__ import annotations

import orjson

from llmops.gateway.calls import Fault, FaultKind, Json

_CODES: dict[FaultKind, str] = {
    "rate_limited": "rate_limit_exceeded",
    "context_too_long": "context_length_exceeded",
    "content_filtered": "content_filter",
    "bad_request": "invalid_request",
    "unauthenticated": "upstream_unauthenticated",
    "overloaded": "overloaded",
    "server_error": "upstream_error",
    "invalid": "upstream_invalid",
    "cut": "upstream_cut",
    "refused": "upstream_unreachable",
    "tls": "upstream_tls",
    "connect_timeout": "upstream_timeout",
    "first_byte_timeout": "upstream_timeout",
    "idle_timeout": "upstream_timeout",
    "total_timeout": "upstream_timeout",
    "cancelled": "cancelled",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "overloaded_error"}


def error_json(fault: Fault) -> Json:
    """The `error` object."""
    kind = _TYPES.get(fault.status)
    if fault.code == "insufficient_quota":
        kind = "insufficient_quota"
    return {
        "message": fault.message,
        "type": kind or ("invalid_request_error" if fault.status < 500 else "server_error"),
        "param": fault.param,
        "code": _CODES[fault.kind] if fault.code in (None, fault.kind) else fault.code,
    }


def error_body(fault: Fault, request_id: str) -> bytes:
    """The body of an error reply; the id helps whoever reports it."""
    return orjson.dumps({"error": {**error_json(fault), "request_id": request_id}})

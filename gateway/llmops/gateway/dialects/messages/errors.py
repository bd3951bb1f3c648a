"""Says a fault in Anthropic's error envelope, so that Claude clients raise and retry as they would at Anthropic.

Source: https://platform.claude.com/docs/en/api/errors
"""

from __future__ import annotations

from llmops.gateway.calls import Fault, Json

_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_json(fault: Fault) -> Json:
    """Type and message; the parameter's name stands in the message already."""
    kind = _BY_STATUS.get(fault.status)
    if kind is None:
        kind = "api_error" if fault.status >= 500 else "invalid_request_error"
    return {"type": kind, "message": fault.message}

"""What follows from a fault: whether to ask again, whom, what it says about the target, and what the caller is told.

| kind | same target again | another target | counts against the target | may have cost |
|---|---|---|---|---|
| refused, connect_timeout | yes | yes | yes | no |
| tls, unauthenticated | no | yes | yes | no |
| first_byte_timeout | no | yes | yes | yes |
| idle_timeout, cut, invalid | yes | yes | yes | yes |
| rate_limited | after Retry-After | yes | no (it rests so long) | no |
| overloaded, server_error | yes | yes | yes | no |
| context_too_long | no | yes | no | no |
| bad_request, content_filtered, cancelled, total_timeout | no | no | no | as sent |

Providers do not charge for calls they answer with an error status; a call that was sent and then fell silent, was cut
or could not be read may have been charged, so it is booked by what is known of it.
"""

from __future__ import annotations

from typing import Final

from llmops.core.errors import LlmopsError
from llmops.gateway.calls import Fault, FaultKind, Headers, Meter, Refused

_AGAIN: Final[frozenset[FaultKind]] = frozenset(
    ("refused", "connect_timeout", "idle_timeout", "cut", "invalid", "rate_limited", "overloaded", "server_error")
)
_ELSEWHERE: Final[frozenset[FaultKind]] = _AGAIN | {"tls", "unauthenticated", "first_byte_timeout", "context_too_long"}
_COUNTS: Final[frozenset[FaultKind]] = _ELSEWHERE - {"rate_limited", "context_too_long"}
_MAY_COST: Final[frozenset[FaultKind]] = frozenset(
    ("first_byte_timeout", "idle_timeout", "total_timeout", "cut", "invalid", "cancelled", "content_filtered")
)
_TOLD_AS: Final[dict[FaultKind, int]] = {
    "refused": 502,
    "tls": 502,
    "unauthenticated": 502,
    "cut": 502,
    "invalid": 502,
    "server_error": 502,
    "connect_timeout": 504,
    "first_byte_timeout": 504,
    "idle_timeout": 504,
    "total_timeout": 504,
    "rate_limited": 429,
    "overloaded": 503,
}


def again_here(fault: Fault) -> bool:
    """Whether the same target may answer if asked once more."""
    return fault.kind in _AGAIN


def elsewhere(fault: Fault) -> bool:
    """Whether another target may answer."""
    return fault.kind in _ELSEWHERE


def counts(fault: Fault) -> bool:
    """Whether the fault says that the target is not well."""
    return fault.kind in _COUNTS


def may_cost(fault: Fault, sent: bool) -> bool:
    """Whether the provider may charge for the failed call."""
    return sent and fault.kind in _MAY_COST


def told(fault: Fault) -> Fault:
    """The fault of an upstream as its caller may see it, with the status that says whose fault it is."""
    status = _TOLD_AS.get(fault.kind, fault.status)
    code = fault.code or fault.kind
    return Fault(fault.kind, fault.message, status, fault.retry_after_s, code, fault.param)


def refusal(status: int, code: str, message: str, hint: str | None = None, param: str | None = None) -> Fault:
    """The gateway's own no."""
    text = f"{message} ({hint})" if hint else message
    return Fault("bad_request", text, status, None, code, param)


def over_limit(refused: Refused) -> Fault:
    """A ceiling is reached: 429, with a code that tells money from rates."""
    code = "budget_exceeded" if refused.meter.what == "usd" else "rate_limit_exceeded"
    return Fault("rate_limited", refused.message, 429, refused.retry_after_s, code, _whose(refused.meter))


def limit_headers(refused: Refused, standing: Headers) -> Headers:
    """What OpenAI's clients read with a refusal: the ceilings, that nothing remains, and when it will."""
    what = refused.meter.what
    if what not in ("requests", "tokens"):
        return standing
    reset = f"{refused.retry_after_s or 60.0:.3f}s"
    name = what.encode()
    return (
        *standing,
        (b"x-ratelimit-remaining-" + name, b"0"),
        (b"x-ratelimit-reset-" + name, reset.encode()),
    )


def from_error(error: LlmopsError) -> Fault:
    """An error of our own tree, told over HTTP."""
    kind: FaultKind = "bad_request" if error.http_status < 500 else "overloaded"
    text = f"{error.what} ({error.hint})" if error.hint else error.what
    return Fault(kind, text, error.http_status, None, error.error_code, error.where)


def _whose(meter: Meter) -> str:
    return f"{meter.subject.partition(':')[0]}.{meter.what}"

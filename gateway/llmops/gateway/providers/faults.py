"""Reads error replies of OpenAI-format servers: which kind of fault, when to ask again, and words safe to pass on.

Knows the shapes of OpenAI, Azure, Mistral, vLLM, TGI, Ollama, llama.cpp, FastAPI and of proxies that answer in HTML or
plain text. Refuses to decide about retries, and never repeats a key: what a server says of our key stays here.

Source: https://platform.openai.com/docs/guides/error-codes, https://platform.openai.com/docs/guides/rate-limits
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from llmops.core.redact import redact_secrets
from llmops.gateway.calls import Fault, FaultKind, Headers

MAX_MESSAGE = 500
"""Longest message of a provider that is passed on, in characters."""

NO_QUOTA_RETRY_S = 3600.0
"""How soon to ask again where the account has no money left: longer than any retry waits, so only fallbacks help."""

_MAX_BODY = 64 * 1024
_MAX_READ = 4 * MAX_MESSAGE  # the patterns below are not run over more
_MAX_RETRY_S = 86_400.0
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"})
_FILTERED = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
)
_TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "context_too_long"})
_TOO_LONG = re.compile(
    r"maximum context length|context length|context window|context size|prompt is too long|input is too long"
    r"|maximum model length|too many tokens|tokens \+ `max_new_tokens` must be|too large for model with",
    re.IGNORECASE,
)
_TAG = re.compile(r"<[^>]{0,500}>")
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,200})", re.IGNORECASE)
_URL_SECRET = re.compile(r"(https?://)(?:[^\s/@\"']{1,200}@)?([^\s?#\"'<>]{0,300})(?:[?#][^\s\"'<>]*)?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_KINDS: Mapping[int, FaultKind] = {
    **dict.fromkeys((402, 429), "rate_limited"),
    **dict.fromkeys((401, 403, 407), "unauthenticated"),
    **dict.fromkeys((408, 409, 425, 503, 529), "overloaded"),
}
_PASSED_ON = frozenset({400, 404, 405, 413, 415, 422})


def read_fault(status: int, headers: Headers, body: bytes, secret: str | None = None) -> Fault:
    """The fault an error reply tells of. `secret` is our key there, taken out wherever it is repeated."""
    if secret:
        body = body.replace(secret.encode(), b"[redacted]")  # before anything is cut off: half a key is found no more
    message, code, param = _told(body[:_MAX_BODY])
    kind = _kind(status, code, message[:_MAX_READ])
    if kind == "unauthenticated" and status == 401:
        message = "the provider refused the gateway's key"
    clean = scrubbed(message, secret) or f"the provider answered with status {status}"
    fault = Fault(kind, clean, _status(kind, status), code=_clean_code(code, secret))
    fault.param = scrubbed(param, secret)[:100] if param else None
    if kind == "rate_limited" and _is_quota(status, code):
        fault.retry_after_s, fault.code = NO_QUOTA_RETRY_S, "insufficient_quota"
    elif kind in ("rate_limited", "overloaded", "server_error"):
        fault.retry_after_s = retry_after_s(headers, limited=kind == "rate_limited")
    return fault


def stream_fault(error: Any, secret: str | None = None) -> Fault:
    """The fault of an `error` object inside a reply that began as a good one."""
    message, code, param = _fields(error)
    error = error.get("error", error) if isinstance(error, dict) else error
    status = error.get("status") if isinstance(error, dict) else None
    status = status if isinstance(status, int) and 400 <= status < 600 else _implied_status(error, code)
    return read_fault(status, (), orjson.dumps({"error": {"message": message, "code": code, "param": param}}), secret)


def retry_after_s(headers: Headers, *, limited: bool = False, now: float | None = None) -> float | None:
    """When the provider says it may be asked again: milliseconds, seconds or a date; for a limit, its next reset.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after; OpenAI's clients read `retry-after-ms` first.
    """
    found = {bytes(name).lower(): bytes(value).decode("latin-1").strip() for name, value in headers}
    wait = _number(found.get(b"retry-after-ms"), 0.001)
    if wait is None and (told := found.get(b"retry-after")):
        wait = _number(told, 1.0)
        wait = _until(told, time.time() if now is None else now) if wait is None else wait
    if wait is None and limited:
        wait = _reset_s(found)
    return None if wait is None else min(max(wait, 0.0), _MAX_RETRY_S)


def scrubbed(message: str, secret: str | None = None) -> str:
    """One line without keys, passwords or queries of URLs, and of a sane length."""
    if secret and secret in message:
        message = message.replace(secret, "[redacted]")
    message = " ".join(message.replace("\x00", " ").split())[:_MAX_READ]
    message = _URL_SECRET.sub(r"\1\2", message)
    message = redact_secrets(message.encode("utf-8", "replace")).decode("utf-8", "replace")
    message = "".join(character for character in message if character.isprintable())
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def _told(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and parameter, whatever shape they came in."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _plain(body.decode("utf-8", "replace")), None, None
    return _fields(value)


def _fields(value: Any) -> tuple[str, str | None, str | None]:
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return (value if isinstance(value, str) else ""), None, None
    error = value.get("error", value)
    if isinstance(error, str):
        return error, _text(value.get("error_type")) or _text(value.get("code")), None
    if not isinstance(error, dict):
        return "", None, None
    inner = error.get("innererror")
    code = _text(inner.get("code")) if isinstance(inner, dict) else None
    code = code or _text(error.get("code")) or _text(error.get("type"))
    return _message(error), code, _text(error.get("param"))


def _message(error: Mapping[str, Any]) -> str:
    message = error.get("message", error.get("detail", error.get("error_message")))
    if isinstance(message, dict):
        message = message.get("detail", message.get("message"))
    if isinstance(message, list):  # FastAPI's validation errors
        return "; ".join(_validation(entry) for entry in message[:5])
    return message if isinstance(message, str) else ""


def _validation(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)[:200]
    where = entry.get("loc")
    path = ".".join(str(part) for part in where[:8]) if isinstance(where, list) else ""
    return f"{path}: {entry.get('msg', '')}"[:200]


def _plain(text: str) -> str:
    text = text[:_MAX_READ]
    if "<html" in text[:2000].lower() or text.lstrip()[:1] == "<":
        title = _TITLE.search(text)
        return f"the provider answered with a page: {html.unescape(title[1] if title else _TAG.sub(' ', text)[:200])}"
    return text


def _text(value: Any) -> str | None:
    if isinstance(value, str) and value:
        return value[:100]
    return None


def _clean_code(code: str | None, secret: str | None) -> str | None:
    return scrubbed(code, secret) if code else None


def _kind(status: int, code: str | None, message: str) -> FaultKind:
    code = (code or "").lower()
    if status < 400:
        return "invalid"
    if code in _FILTERED:
        return "content_filtered"
    if status in (400, 413, 422, 500) and (code in _TOO_LONG_CODES or _TOO_LONG.search(message)):
        return "context_too_long"
    told = _KINDS.get(status)
    return told or ("bad_request" if status < 500 else "server_error")


def _is_quota(status: int, code: str | None) -> bool:
    return status == 402 or (code or "").lower() in _QUOTA


def _implied_status(error: Any, code: str | None) -> int:
    """The status an error inside a stream would have had; servers give it as `code`, or only by its name."""
    number = error.get("code") if isinstance(error, dict) else None
    if isinstance(number, str) and number.isdecimal() and len(number) == 3:
        number = int(number)
    if isinstance(number, int) and 400 <= number < 600:
        return number
    name = (code or "").lower()
    if "rate_limit" in name or name in _QUOTA:
        return 429
    if "overloaded" in name or "unavailable" in name:
        return 503
    return 400 if "invalid_request" in name or name in _FILTERED or name in _TOO_LONG_CODES else 500


def _status(kind: FaultKind, status: int) -> int:
    """What our own caller is told: an upstream's broken key or crash is our bad gateway, not theirs."""
    if kind == "bad_request":
        return status if status in _PASSED_ON else 400
    return {"content_filtered": 400, "context_too_long": 400, "rate_limited": 429, "overloaded": 503}.get(kind, 502)


def _number(text: str | None, unit: float) -> float | None:
    if text is None or len(text) > 20 or not re.fullmatch(r"\d+(?:\.\d+)?", text):
        return None
    return float(text) * unit


def _until(text: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _reset_s(found: Mapping[bytes, str]) -> float | None:
    """The reset of the limit that is used up; where none says so, the later one."""
    waits: list[tuple[bool, float]] = []
    for what in (b"requests", b"tokens"):
        reset = found.get(b"x-ratelimit-reset-" + what)
        wait = None if reset is None else _duration(reset)
        if wait is not None:
            waits.append((found.get(b"x-ratelimit-remaining-" + what) == "0", wait))
    used_up = [wait for empty, wait in waits if empty]
    return max(used_up or [wait for _, wait in waits], default=None)


def _duration(text: str) -> float | None:
    """`1s`, `6m0s`, `250ms` as OpenAI writes them, or plain seconds."""
    plain = _number(text, 1.0)
    parts = _DURATION.findall(text[:40])
    if plain is not None or not parts or "".join(number + unit for number, unit in parts) != text:
        return plain
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)

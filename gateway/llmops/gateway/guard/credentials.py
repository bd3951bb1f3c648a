"""Finds secrets in text as the log's redaction knows them (core.redact), and nothing beside."""

from __future__ import annotations

from collections.abc import Sequence

from llmops.core.redact import find_secrets, may_hold_secret, unfinished_secret
from llmops.gateway.guard.detectors import Span


class Credentials:
    """API keys of the usual providers and our own, bearer tokens, private keys, values named password or key."""

    def suspects(self, text: str) -> bool:
        return may_hold_secret(text)

    def spans(self, text: str, start: int = 0) -> Sequence[Span]:
        return [Span(at, end, "secret", led_in_by) for led_in_by, at, end in find_secrets(text, start)]

    def open_at(self, text: str, start: int = 0) -> int:
        return unfinished_secret(text, start)

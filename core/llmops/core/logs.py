"""Log lines for people on a terminal and for machines elsewhere, on stderr, with secrets taken out."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

from llmops.core.redact import redact_secrets

ROOT = "llmops"


def configure(level: str = "INFO", *, json: bool | None = None) -> None:
    """Send the product's log to stderr: one line a record on a terminal, one JSON object a line otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = json if json is not None else not sys.stderr.isatty()
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class LineFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact_text(record.getMessage()),
        }
        if record.exc_info:
            entry["trace"] = redact_text(self.formatException(record.exc_info))
        return orjson.dumps(entry).decode()


def redact_text(text: str) -> str:
    """The text with everything that looks like a secret taken out."""
    return redact_secrets(text.encode(errors="replace")).decode(errors="replace")

"""Rows of the shared tables, as tests need them."""

from __future__ import annotations

from typing import Any

from llmops.core.ids import new_id

LOG = "dev.serving.inference_log"
FEEDBACK = "dev.serving.feedback"


def log_row(**values: Any) -> dict[str, Any]:
    """A row of the inference log that fits its table."""
    return {
        "invocation_id": new_id(),
        "request_id": new_id(),
        "layer": "serving",
        "request_time": "2026-01-31T23:30:00.250000Z",
        "endpoint": "chat",
        "assignment_p": 1.0,
        **values,
    }


def thumb(**values: Any) -> dict[str, Any]:
    """A row of the feedback table that fits it."""
    return {
        "feedback_id": new_id(),
        "request_id": new_id(),
        "event_time": "2026-01-31T23:31:00Z",
        "source": "human",
        "name": "thumb",
        "value_num": 1.0,
        **values,
    }

"""The list of routes, in OpenAI's or Anthropic's shape: what a key may name as `model`.

Sources: https://platform.openai.com/docs/api-reference/models/list, https://docs.anthropic.com/en/api/models-list
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from llmops.core.errors import did_you_mean
from llmops.gateway.calls import Json, KeyPolicy
from llmops.gateway.engine.faults import refusal
from llmops.gateway.engine.plan import Plan

_CREATED = "2026-01-01T00:00:00Z"
_CREATED_S = 1767225600
"""Clients demand a date; routes have none."""


def models_reply(plan: Plan, policy: KeyPolicy | None, name: str, anthropic: bool) -> bytes:
    """All routes, or the one named.

    Raises:
        Fault: there is no such route for this key.
    """
    allowed = [route for route in plan.routes if policy is None or not policy.routes or route in policy.routes]
    if name:
        if name not in allowed:
            near = did_you_mean(name[:128], allowed)
            raise refusal(404, "model_not_found", f"no route is named `{name[:128]}`", near)
        return orjson.dumps(_entry(name, anthropic))
    return orjson.dumps(_list(allowed, anthropic))


def _list(names: Iterable[str], anthropic: bool) -> Json:
    data = [_entry(name, anthropic) for name in names]
    if not anthropic:
        return {"object": "list", "data": data}
    ids = [entry["id"] for entry in data]
    return {
        "data": data,
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def _entry(name: str, anthropic: bool) -> Json:
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": _CREATED}
    return {"id": name, "object": "model", "created": _CREATED_S, "owned_by": "llmops"}

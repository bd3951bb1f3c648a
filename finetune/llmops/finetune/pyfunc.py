"""A registered model as MLflow's own loader gives it, for whoever knows only that; serving opens the chain itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmops.core.chain import Chain, ChainContext, Delta, Message, event_json


class Answering:
    """`predict` and `predict_stream` of conversations: `{"messages": [...]}`, a list of such, or a table with them."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """The answer to each conversation."""
        return [
            "".join(event.text for event in self._chain.stream(turns, _context(params)) if isinstance(event, Delta))
            for turns in _conversations(model_input)
        ]

    def predict_stream(self, model_input: Any, params: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """The events of the first conversation's answer, as JSON values."""
        for event in self._chain.stream(_conversations(model_input)[0], _context(params)):
            yield event_json(event)


def _context(params: dict[str, Any] | None) -> ChainContext:
    return ChainContext(settings=dict(params or {}))


def _conversations(model_input: Any) -> list[list[Message]]:
    if hasattr(model_input, "to_dict"):
        model_input = model_input.to_dict("records")
    rows = model_input if isinstance(model_input, list) else [model_input]
    return [list(row["messages"]) for row in rows]

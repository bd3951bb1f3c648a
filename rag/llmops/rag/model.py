"""The registered chain as MLflow sees it: a model from code that opens the chain its configuration pins.

Run by `mlflow.pyfunc.load_model`; our own loader opens the chain directly (`packaging.open_chain`) and skips MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel

from llmops.core.chain import Chain, ChainContext, Delta, Event, Message, PassageRef, PassageView, event_json
from llmops.core.identity import Principal
from llmops.rag.packaging import open_chain


class RagModel(PythonModel):  # type: ignore[misc]
    """Implements `core.chain.Chain`, and MLflow's predict for whoever knows only that."""

    def __init__(self) -> None:
        self._chain: Chain | None = None
        self.version_info: dict[str, Any] = {}

    def load_context(self, context: Any) -> None:
        self._chain = open_chain(context.model_config)
        self.version_info = self._chain.version_info

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """The answer to each conversation: `{"messages": [...]}`, a list of such, or a table with that column."""
        return [
            "".join(event.text for event in self.stream(messages, ChainContext()) if isinstance(event, Delta))
            for messages in _conversations(model_input)
        ]

    def predict_stream(
        self, context: Any, model_input: Any, params: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The events of the first conversation's answer, as JSON values."""
        for event in self.stream(_conversations(model_input)[0], ChainContext()):
            yield event_json(event)

    def stream(self, messages: list[Message], context: ChainContext) -> Iterator[Event]:
        return self._opened.stream(messages, context)

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        return self._opened.passage(ref, principal)

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()

    @property
    def _opened(self) -> Chain:
        assert self._chain is not None, "MLflow calls load_context first"
        return self._chain


def _conversations(model_input: Any) -> list[list[Message]]:
    if hasattr(model_input, "to_dict"):
        model_input = model_input.to_dict("records")
    rows = model_input if isinstance(model_input, list) else [model_input]
    return [list(row["messages"]) for row in rows]


mlflow.models.set_model(RagModel())

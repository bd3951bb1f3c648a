"""A foreign MLflow model as a chain: whatever shape its replies have, its text arrives as the contract's events.

Knows the reply shapes of MLflow's chat flavours (ChatModel and OpenAI, ChatAgent, ResponsesAgent, LangChain, plain
text). Such a model cites nothing that could be checked, so it gives no passages and no citations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmops.core.chain import ChainContext, Delta, Done, Event, Message, PassageRef, PassageView, Retrieval, Usage
from llmops.core.errors import LlmopsError, NotFoundError, UpstreamError, UserError
from llmops.core.identity import Principal

_TEXT_KEYS = ("delta", "content", "text", "answer", "output_text", "output", "result", "response", "generated_text")


def is_chain(found: Any) -> bool:
    """Whether an object already is what `core.chain.Chain` asks for."""
    return all(callable(getattr(found, name, None)) for name in ("stream", "passage", "close")) and isinstance(
        getattr(found, "version_info", None), dict
    )


class PyfuncChain:
    """Wraps a loaded `PyFuncModel`. Streams where the model does; otherwise the whole reply is one delta."""

    def __init__(self, model: Any, *, name: str) -> None:
        self._model = model
        self._name = name
        self._streams = getattr(model, "_predict_stream_fn", None) is not None
        self.version_info: dict[str, Any] = {"model": name}

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        """Ask the model, and give its reply as it comes.

        Raises:
            UserError: there is no question.
            UpstreamError: the model failed, or answered in a shape that holds no text.
        """
        if not messages or not messages[-1]["content"].strip():
            raise UserError("the question is empty")
        yield Retrieval(passages=(), generation="", index_seq=0)
        written = 0
        for text in self._texts(self._shape(messages)):
            context.cancel.check()
            if text:
                written += len(text)
                yield Delta(text)
        if not written:
            raise UpstreamError("the model's reply holds no text", where=self._name)
        read = sum(len(message["content"]) for message in messages)
        yield Done(Usage(read // 4, written // 4, estimated=True), refused=False, generation="", index_seq=0)

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        """Nothing can be opened: a foreign model's sources are unknown."""
        raise NotFoundError("this model shows no sources", where=ref.uri)

    def close(self) -> None:
        """Nothing is held open."""

    def _texts(self, request: Any) -> Iterator[str]:
        try:
            if not self._streams:
                yield reply_text(self._model.predict(request))
                return
            for chunk in self._model.predict_stream(request):
                yield chunk_text(chunk)
        except LlmopsError:
            raise
        except Exception as error:  # the boundary to code that is not ours
            raise UpstreamError(f"the model failed: {type(error).__name__}: {error}", where=self._name) from error

    def _shape(self, messages: Sequence[Message]) -> Any:
        """The request as this model's signature wants it."""
        turns = [dict(message) for message in messages]
        columns = _columns(self._model)
        if "input" in columns and "messages" not in columns and _flavour(self._model) == "responses":
            return {"input": turns}
        if "messages" in columns or not columns:
            return {"messages": turns}
        if len(columns) == 1:
            return {columns[0]: messages[-1]["content"]} if columns[0] else [messages[-1]["content"]]
        raise UserError(
            f"the model asks for {', '.join(columns)}: it is no chat model",
            where=self._name,
            hint="serve it under /invocations instead",
        )


def reply_text(reply: Any) -> str:
    """The text of a whole reply."""
    reply = _plain(reply)
    if isinstance(reply, str):
        return reply
    if isinstance(reply, Mapping):
        return _mapping_text(reply)
    if isinstance(reply, Sequence) and not isinstance(reply, bytes) and len(reply):
        return reply_text(reply[0])
    return ""


def chunk_text(chunk: Any) -> str:
    """The text that one streamed chunk adds; events that close or repeat add none."""
    chunk = _plain(chunk)
    if isinstance(chunk, Mapping):
        kind = str(chunk.get("type", ""))
        if kind.startswith("response."):
            return str(chunk.get("delta", "")) if kind == "response.output_text.delta" else ""
        if chunk.get("choices"):
            return reply_text(_plain(chunk["choices"][0]).get("delta") or {})
        if "delta" in chunk:
            return reply_text(chunk["delta"])
    return reply_text(chunk)


def _mapping_text(reply: Mapping[str, Any]) -> str:
    if reply.get("choices"):
        choice = _plain(reply["choices"][0])
        return reply_text(choice.get("message", choice.get("text", "")))
    if reply.get("messages"):
        return reply_text(reply["messages"][-1])
    if isinstance(reply.get("output"), list):
        return "".join(_responses_text(_plain(item)) for item in reply["output"])
    return next((reply_text(reply[key]) for key in _TEXT_KEYS if reply.get(key) is not None), "")


def _responses_text(item: Any) -> str:
    parts = item.get("content") if isinstance(item, Mapping) and item.get("type", "message") == "message" else None
    if isinstance(parts, str):
        return parts
    return "".join(str(_plain(part).get("text", "")) for part in parts or ())


def _plain(value: Any) -> Any:
    """Pydantic objects, tables and arrays as mappings and lists."""
    for method in ("model_dump", "to_dict"):
        if not isinstance(value, Mapping) and callable(getattr(value, method, None)):
            value = value.to_dict("records") if hasattr(value, "columns") else getattr(value, method)()
            break
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.startswith('{"'):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _columns(model: Any) -> list[str]:
    schema = model.metadata.get_input_schema()
    return [] if schema is None else [str(name) for name in schema.input_names()] or [""]


def _flavour(model: Any) -> str:
    metadata = model.metadata.metadata or {}
    return "responses" if "responses" in str(metadata.get("task", "")) else "chat"

"""Says chat, embeddings and rerank requests in Cohere's words (API v2).

Knows the v2 formats as of late 2026. Cohere can force tools only altogether, so a choice of some tools is said by
offering no others.

Source: https://docs.cohere.com/reference/chat, https://docs.cohere.com/reference/embed,
https://docs.cohere.com/reference/rerank
"""

from __future__ import annotations

from llmops.gateway import chat
from llmops.gateway.calls import Json
from llmops.gateway.config import TargetConfig
from llmops.gateway.reading import CALLER, dumped

NAME = "Cohere"

_KNOWN = chat.GENERATION | {
    *("top_k", "seed", "presence_penalty", "frequency_penalty", "safety_mode", "documents", "citation_options"),
}
_NUMBERS = {
    "temperature": "temperature",
    "top_p": "p",
    "top_k": "k",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5}
_EMBEDDING_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user", "input_type", "truncate"})
_RERANK_KNOWN = frozenset({"model", "query", "documents", "top_n", "max_tokens_per_doc", "return_documents", "user"})


def chat_request(body: Json, target: TargetConfig) -> Json:
    """The body for `/v2/chat`.

    Raises:
        Fault: `bad_request` for what cannot be read, or cannot be said to Cohere.
    """
    chat.refuse_unknown(body, _KNOWN, NAME)
    limit = chat.output_limit(body, target.max_output_tokens)
    request: Json = {
        "model": target.model,
        "messages": [_message(message, role, where) for where, message, role in chat.messages(body)],
        "max_tokens": limit,
        "stream": bool(body.get("stream")),
    }
    for name, theirs in _NUMBERS.items():
        if body.get(name) is not None:
            request[theirs] = CALLER.number(body[name], name)
    for name in ("safety_mode", "documents", "citation_options"):
        if body.get(name) is not None:
            request[name] = body[name]
    if stop := chat.stop_sequences(body):
        request["stop_sequences"] = stop
    _put_format(body, request)
    _put_tools(body, request)
    if (effort := chat.reasoning_effort(body)) is not None:
        request["thinking"] = _thinking(effort, limit)
    return request


def embed_request(body: Json, target: TargetConfig) -> Json:
    """The body for `/v2/embed`. Cohere must know what the texts are for: documents, unless `input_type` says more."""
    _refuse_others(body, _EMBEDDING_KNOWN)
    request: Json = {
        "model": target.model,
        "texts": chat.embedding_texts(body),
        "input_type": CALLER.text(body.get("input_type") or "search_document", "input_type"),
        "embedding_types": ["float"],
    }
    if body.get("dimensions") is not None:
        request["output_dimension"] = CALLER.count(body["dimensions"], "dimensions")
    if body.get("truncate") is not None:
        request["truncate"] = CALLER.text(body["truncate"], "truncate")
    return request


def rerank_request(body: Json, target: TargetConfig) -> Json:
    """The body for `/v2/rerank`, which takes documents as text only and gives back none."""
    _refuse_others(body, _RERANK_KNOWN)
    documents = body.get("documents")
    if not isinstance(documents, list) or not documents:
        raise CALLER.fault("documents", "must be a list that is not empty")
    request: Json = {
        "model": target.model,
        "query": CALLER.text(body.get("query"), "query"),
        "documents": [_document(document, f"documents.{number}") for number, document in enumerate(documents)],
    }
    for name in ("top_n", "max_tokens_per_doc"):
        if body.get(name) is not None:
            request[name] = CALLER.count(body[name], name)
    return request


def _refuse_others(body: Json, known: frozenset[str]) -> None:
    for name, value in body.items():
        if value is not None and name not in known:
            raise CALLER.fault(name, f"has no counterpart at {NAME}")


def _document(document: object, where: str) -> str:
    if isinstance(document, dict):
        return CALLER.text(document.get("text"), f"{where}.text")
    return CALLER.text(document, where)


def _message(message: Json, role: str, where: str) -> Json:
    content = message.get("content")
    if role in ("system", "developer"):
        return {"role": "system", "content": chat.plain_text(content, f"{where}.content")}
    if role == "user":
        return {"role": "user", "content": _user_content(content, f"{where}.content")}
    if role == "tool":
        id_ = CALLER.text(message.get("tool_call_id"), f"{where}.tool_call_id")
        return {"role": "tool", "tool_call_id": id_, "content": chat.plain_text(content, f"{where}.content")}
    if role == "assistant":
        return _assistant(message, where)
    raise CALLER.fault(f"{where}.role", "must be system, developer, user, assistant or tool")


def _user_content(content: object, where: str) -> str | list[Json]:
    found: list[Json] = []
    for number, part in enumerate(chat.parts(content, where)):
        path = f"{where}.{number}"
        if part["type"] == "text":
            found.append({"type": "text", "text": CALLER.text(part.get("text"), path)})
        elif part["type"] == "image_url":
            found.append({"type": "image_url", "image_url": {"url": chat.image_url(part, path)}})
        else:
            raise CALLER.fault(f"{path}.type", f"`{part['type']}` is not possible at {NAME}")
    if len(found) == 1 and found[0]["type"] == "text":
        return str(found[0]["text"])
    return found or ""


def _assistant(message: Json, where: str) -> Json:
    """With calls, what the model reasoned is its plan for the tools."""
    told: Json = {"role": "assistant"}
    if text := chat.plain_text(message.get("content"), f"{where}.content"):
        told["content"] = text
    calls = chat.tool_calls(message, where)
    if calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": dumped(call.arguments).decode()},
            }
            for call in calls
        ]
        plan = CALLER.optional_text(message.get("reasoning_content"), f"{where}.reasoning_content")
        if plan:
            told["tool_plan"] = plan
    return told if len(told) > 1 else {**told, "content": ""}


def _put_format(body: Json, request: Json) -> None:
    asked = chat.response_format(body)
    if asked.kind != "text":
        request["response_format"] = {"type": "json_object"}
    if asked.schema is not None:
        request["response_format"]["json_schema"] = asked.schema


def _put_tools(body: Json, request: Json) -> None:
    tools, choice = chat.tools(body), chat.tool_choice(body)
    if choice is not None and choice.names:
        tools = [tool for tool in tools if tool.name in choice.names]
    if not tools:
        if choice is not None and choice.mode == "required":
            raise CALLER.fault("tool_choice", "asks for a tool that `tools` does not hold")
        return
    if body.get("parallel_tool_calls") is False:
        raise CALLER.fault("parallel_tool_calls", f"cannot be switched off at {NAME}")
    request["tools"] = [_tool(tool) for tool in tools]
    if any(tool.strict for tool in tools):
        request["strict_tools"] = True
    if choice is not None and choice.mode != "auto":
        request["tool_choice"] = choice.mode.upper()


def _tool(tool: chat.Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.parameters}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _thinking(effort: str, limit: int) -> Json:
    """Less effort is a smaller budget; without one the model thinks as long as it needs."""
    if effort == "none":
        return {"type": "disabled"}
    if effort in _SHARES:
        return {"type": "enabled", "token_budget": max(int(limit * _SHARES[effort]), 1)}
    return {"type": "enabled"}

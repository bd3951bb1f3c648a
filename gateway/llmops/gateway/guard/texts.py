"""Where people's and models' words stand in the bodies of each API, and who says them.

Knows the places of OpenAI's chat, completions, responses and embeddings, of Anthropic's messages and of rerank; it
judges nothing. A place that an API does not document is not looked at, except within content parts and tool inputs,
where every string is.

Sources: https://platform.openai.com/docs/api-reference, https://docs.anthropic.com/en/api/messages,
https://docs.cohere.com/reference/rerank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmops.gateway.calls import Json, Operation

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_NOT_WORDS = frozenset({
    "type", "id", "tool_use_id", "tool_call_id", "call_id", "media_type", "detail", "signature", "encrypted_content",
    "data", "file_data", "file_id", "url", "image_url", "file_url", "status", "role", "cache_control", "format",
})  # fmt: skip
_BARE = frozenset({"role", "content"})
_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
"""Parts whose `input` is a tool's arguments: there a field has the name that the tool gave it, and says anything."""

MAX_PLACES = 100_000
"""Strings in one body; none of the APIs takes nearly as many."""


@dataclass(slots=True)
class Place:
    """One text: `holder[key]`, to be read, or written where it is masked."""

    role: Role
    holder: Any
    key: Any

    @property
    def text(self) -> str:
        text: str = self.holder[self.key]
        return text


def places(operation: Operation, body: Json) -> Iterator[Place]:
    """The texts of a request, in their order."""
    return _REQUESTS[operation](body)


def reply_places(operation: Operation, reply: Json) -> Iterator[Place]:
    """The texts of a whole reply; everything in it is the model's."""
    return _REPLIES[operation](reply)


def _role(value: Any, default: Role = "user") -> Role:
    return _ROLES.get(value, default) if isinstance(value, str) else default


def _content(role: Role, holder: Any, key: Any) -> Iterator[Place]:
    """A content that is a string, or a list of parts."""
    value = holder.get(key) if isinstance(holder, dict) else holder[key]
    if type(value) is str:
        yield Place(role, holder, key)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            if type(part) is str:
                yield Place(role, value, number)
            elif isinstance(part, dict):
                yield from _part(role, part)
    elif isinstance(value, dict):
        yield from _words(role, value)


def _part(role: Role, part: Json) -> Iterator[Place]:
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text") and type(part.get("text")) is str:
        yield Place(role, part, "text")
        return
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") == "text" and type(source.get("data")) is str:
        yield Place("tool", source, "data")  # a document that is plain text
    if kind in _CALLS and isinstance(part.get("input"), dict | list):
        yield from _words(role, part["input"], frozenset())
        return
    yield from _words("tool" if kind in ("tool_result", "document", "search_result", "file") else role, part)


def _words(role: Role, value: Any, no_words: frozenset[str] = _NOT_WORDS) -> Iterator[Place]:
    """Every string within, but those that are names or bytes of something; without recursion, for it may be deep."""
    stack = [value]
    found = 0
    while stack and found < MAX_PLACES:
        holder = stack.pop()
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, item in list(entries):
            if type(item) is str:
                if not isinstance(holder, dict) or key not in no_words:
                    found += 1
                    yield Place(role, holder, key)
            elif isinstance(item, dict | list):
                stack.append(item)


def _chat(body: Json) -> Iterator[Place]:
    messages = body.get("messages")
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict):
                yield from _message(message, _role(message.get("role")))
    prediction = body.get("prediction")
    if isinstance(prediction, dict):
        yield from _content("user", prediction, "content")
    yield from _tools(body)


def _message(message: Json, role: Role) -> Iterator[Place]:
    """A message of OpenAI's chat or Anthropic's, sent or received."""
    yield from _content(role, message, "content")
    if message.keys() <= _BARE:
        return
    for key in ("refusal", "reasoning_content", "reasoning"):
        if type(message.get(key)) is str:
            yield Place(role, message, key)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        for call in calls:
            if isinstance(call, dict):
                for kind, field in (("function", "arguments"), ("custom", "input")):
                    yield from _content(role, call.get(kind) or {}, field) if isinstance(call.get(kind), dict) else ()
    call = message.get("function_call")
    if isinstance(call, dict):
        yield from _content(role, call, "arguments")


def _tools(body: Json) -> Iterator[Place]:
    """What the application says of its tools: its own words, like the system prompt."""
    tools = body.get("tools")
    if isinstance(tools, list):
        for tool in tools:
            inner = tool.get("function", tool) if isinstance(tool, dict) else None
            if isinstance(inner, dict) and type(inner.get("description")) is str:
                yield Place("system", inner, "description")


def _messages(body: Json) -> Iterator[Place]:
    yield from _content("system", body, "system")
    yield from _chat(body)


def _completions(body: Json) -> Iterator[Place]:
    yield from _content("user", body, "prompt")
    yield from _content("user", body, "suffix")


def _responses(body: Json) -> Iterator[Place]:
    yield from _content("system", body, "instructions")
    value = body.get("input")
    if type(value) is str:
        yield Place("user", body, "input")
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from _item(item)
    yield from _tools(body)


def _item(item: Json) -> Iterator[Place]:
    """One item of a response's input or output."""
    kind = item.get("type", "message")
    if kind == "message":
        yield from _content(_role(item.get("role")), item, "content")
    else:
        yield from _words("tool" if str(kind).endswith("_output") else "assistant", item)


def _embeddings(body: Json) -> Iterator[Place]:
    yield from _content("user", body, "input")


def _rerank(body: Json) -> Iterator[Place]:
    yield from _content("user", body, "query")
    documents = body.get("documents")
    if isinstance(documents, list):
        for number, document in enumerate(documents):
            if type(document) is str:
                yield Place("tool", documents, number)
            elif isinstance(document, dict):
                yield from _words("tool", document)


def _chat_reply(reply: Json) -> Iterator[Place]:
    choices = reply.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        if isinstance(choice.get("message"), dict):
            yield from _message(choice["message"], "assistant")
        if type(choice.get("text")) is str:
            yield Place("assistant", choice, "text")


def _messages_reply(reply: Json) -> Iterator[Place]:
    yield from _content("assistant", reply, "content")


def _responses_reply(reply: Json) -> Iterator[Place]:
    output = reply.get("output")
    for item in output if isinstance(output, list) else ():
        if isinstance(item, dict):
            yield from _item(item)


def _rerank_reply(reply: Json) -> Iterator[Place]:
    results = reply.get("results")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, dict) and isinstance(result.get("document"), dict):
            yield from _words("tool", result["document"])


def _nothing(_: Json) -> Iterator[Place]:
    return iter(())


_Walk = Callable[[Json], Iterator[Place]]
_REQUESTS: Mapping[Operation, _Walk] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "messages": _messages,
    "embeddings": _embeddings,
    "rerank": _rerank,
}
_REPLIES: Mapping[Operation, _Walk] = {
    "chat": _chat_reply,
    "completions": _chat_reply,
    "responses": _responses_reply,
    "messages": _messages_reply,
    "embeddings": _nothing,
    "rerank": _rerank_reply,
}

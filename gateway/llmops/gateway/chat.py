"""Reads a canonical chat request with care: what all translators from it share.

Knows OpenAI's chat-completions request and the extension fields below; knows no provider. Extension fields carry what
OpenAI's format has no word for, so that a conversation survives a round trip through it. Strict servers refuse them, so
a dialect that puts them in gives an `Extended` body, and a provider that does not read them sends the `plain` one:

    message.reasoning_content     the visible reasoning, as text
    message.thinking_blocks       Anthropic's thinking blocks as they came, signatures included
    message.is_error              a tool's result is an error (role `tool`)
    *.cache_control               Anthropic's cache breakpoints, on content parts, messages and tools
    tool_call.extra_content       {"google": {"thought_signature": ...}}, as Google's OpenAI-compatible API writes it
    body.thinking                 Anthropic's thinking configuration, beside the `reasoning_effort` nearest to it
    body.output_config            Anthropic's effort as it was asked for
    body.top_k                    sampling from the k likeliest tokens; many servers know it

Source: https://platform.openai.com/docs/api-reference/chat, https://ai.google.dev/gemini-api/docs/openai
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmops.gateway.calls import Fault, Json
from llmops.gateway.ceilings import asked_output
from llmops.gateway.reading import CALLER

GENERATION = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "stop", "temperature", "top_p"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
    }
)
"""Fields that every provider's translation here knows how to say."""

HINTS = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "user", "safety_identifier", "metadata", "store"),
        *("prediction", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "cache_control"),
    }
)
"""Fields that ask for nothing the answer could lack: a provider without them may leave them out."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
    "tools": ([],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "parallel_tool_calls": (True,),
}
"""Values that say no more than the default does."""

_ANTHROPIC_ONLY = frozenset({"cache_control", "thinking", "thinking_blocks", "output_config", "is_error"})
_DATA_URL = re.compile(r"(?i:data):([a-zA-Z]+/[a-zA-Z0-9.+-]+)(?:;[a-zA-Z0-9=._-]+)*?;base64,", re.ASCII)


class Extended(dict[str, Any]):
    """A chat body that holds extension fields which its caller did not write."""


def plain(body: Json) -> Json:
    """An extended body without Anthropic's extensions; any other body as it is."""
    if not isinstance(body, Extended):
        return body
    left = {name: value for name, value in body.items() if name not in _ANTHROPIC_ONLY}
    for name in ("messages", "tools"):
        if name in left:
            left[name] = [_plain_item(item) for item in left[name]]
    return left


def _plain_item(item: Json) -> Json:
    left = {name: value for name, value in item.items() if name not in _ANTHROPIC_ONLY}
    if isinstance(left.get("content"), list):
        left["content"] = [_plain_item(part) for part in left["content"]]
    return left


def refuse_unknown(body: Json, known: frozenset[str], provider: str) -> None:
    """Say clearly what a provider cannot do, rather than answer as if it had not been asked.

    Raises:
        Fault: `bad_request` naming the first field that would be lost.
    """
    for name, value in body.items():
        if value is None or name in known or name in HINTS or value in NEUTRAL.get(name, ()):
            continue
        raise CALLER.fault(name, f"has no counterpart at {provider}: leave it out, or use a model of another provider")


def output_limit(body: Json, ceiling: int) -> int:
    """The most output tokens of this call: what the caller asked for, never above the target's ceiling."""
    limit = asked_output("chat", body, ceiling)
    if limit < 1:
        raise CALLER.fault("max_completion_tokens", "must be at least 1")
    return limit


def stop_sequences(body: Json) -> list[str]:
    stop = body.get("stop")
    if stop is None:
        return []
    if isinstance(stop, str):
        return [stop]
    if not isinstance(stop, list):
        raise CALLER.fault("stop", "must be a string or a list of strings")
    return [CALLER.text(item, f"stop.{number}") for number, item in enumerate(stop)]


def messages(body: Json) -> Iterator[tuple[str, Json, str]]:
    """Each message with its path and role."""
    found = CALLER.objects(body.get("messages"), "messages")
    if not found:
        raise CALLER.fault("messages", "must hold at least one message")
    for number, message in enumerate(found):
        where = f"messages.{number}"
        yield where, message, CALLER.text(message.get("role"), f"{where}.role")


def parts(content: Any, where: str) -> list[Json]:
    """Content as a list of parts; a string is one text part, None no part, an empty text is left out."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    kept = []
    for number, part in enumerate(CALLER.objects(content, where)):
        kind = CALLER.text(part.get("type"), f"{where}.{number}.type")
        if kind == "text" and not CALLER.text(part.get("text"), f"{where}.{number}.text"):
            continue
        kept.append(part)
    return kept


def plain_text(content: Any, where: str) -> str:
    """Content that may hold text only, as one string."""
    texts = []
    for number, part in enumerate(parts(content, where)):
        if part["type"] not in ("text", "refusal"):
            raise CALLER.fault(f"{where}.{number}", f"of type `{part['type']}` is not possible here: text only")
        texts.append(CALLER.text(part.get(part["type"]), f"{where}.{number}.{part['type']}"))
    return "".join(texts)


@dataclass(slots=True, frozen=True)
class DataUrl:
    """Bytes within a URL: their media type, and base64 that was checked."""

    media_type: str
    base64: str


def data_url(url: str, where: str) -> DataUrl | None:
    """The content of a `data:` URL; None for any other URL.

    Raises:
        Fault: a data URL that is not base64 of a media type.
    """
    if url[:5].lower() != "data:":
        return None
    head = _DATA_URL.match(url)
    if head is None:
        raise CALLER.fault(where, "must be a data URL of the form data:TYPE/SUBTYPE;base64,DATA")
    data = url[head.end() :]
    try:
        b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise CALLER.fault(where, "holds data that is not base64") from None
    return DataUrl(head.group(1).lower(), data)


def image_url(part: Json, where: str) -> str:
    image = part.get("image_url")
    if isinstance(image, str):
        return image
    return CALLER.text(CALLER.object(image, f"{where}.image_url").get("url"), f"{where}.image_url.url")


@dataclass(slots=True, frozen=True)
class ToolCall:
    """A call the model made earlier in the conversation."""

    id: str
    name: str
    arguments: Json
    raw: Json


def tool_calls(message: Json, where: str) -> list[ToolCall]:
    calls = []
    for number, call in enumerate(CALLER.objects(message.get("tool_calls"), f"{where}.tool_calls")):
        path = f"{where}.tool_calls.{number}"
        if call.get("type", "function") != "function":
            raise CALLER.fault(f"{path}.type", "must be `function`: other tools exist at OpenAI only")
        function = CALLER.object(call.get("function"), f"{path}.function")
        text = CALLER.text(function.get("arguments") or "{}", f"{path}.function.arguments")
        arguments = CALLER.object(CALLER.parsed(text, f"{path}.function.arguments"), f"{path}.function.arguments")
        name = CALLER.text(function.get("name"), f"{path}.function.name")
        calls.append(ToolCall(CALLER.text(call.get("id"), f"{path}.id"), name, arguments, call))
    return calls


@dataclass(slots=True, frozen=True)
class Tool:
    """A function the model may call."""

    name: str
    description: str | None
    parameters: Json
    strict: bool
    raw: Json


def tools(body: Json) -> list[Tool]:
    """The tools that may be called; a choice of `allowed_tools` leaves only those."""
    found = []
    for number, tool in enumerate(CALLER.objects(body.get("tools"), "tools")):
        where = f"tools.{number}"
        if tool.get("type") != "function":
            raise CALLER.fault(f"{where}.type", "must be `function`: other tools exist at OpenAI only")
        function = CALLER.object(tool.get("function"), f"{where}.function")
        parameters = function.get("parameters")
        schema = {"type": "object", "properties": {}} if not parameters else CALLER.object(parameters, where)
        found.append(
            Tool(
                CALLER.text(function.get("name"), f"{where}.function.name"),
                CALLER.optional_text(function.get("description"), f"{where}.function.description"),
                schema,
                function.get("strict") is True,
                tool,
            )
        )
    return found


@dataclass(slots=True, frozen=True)
class Choice:
    """How the model may use its tools. `names`: the only ones it may use; empty: all of them."""

    mode: str  # auto, required, none
    names: tuple[str, ...] = ()


def tool_choice(body: Json) -> Choice | None:
    asked = body.get("tool_choice")
    if asked is None:
        return None
    if isinstance(asked, str):
        if asked not in ("auto", "required", "none"):
            raise CALLER.fault("tool_choice", "must be auto, required, none, or an object")
        return Choice(asked)
    kind = CALLER.object(asked, "tool_choice").get("type")
    if kind == "function":
        function = CALLER.object(asked.get("function"), "tool_choice.function")
        return Choice("required", (CALLER.text(function.get("name"), "tool_choice.function.name"),))
    if kind == "allowed_tools":
        return _allowed(CALLER.object(asked.get("allowed_tools"), "tool_choice.allowed_tools"))
    raise CALLER.fault("tool_choice.type", "must be `function` or `allowed_tools`")


def _allowed(allowed: Json) -> Choice:
    where = "tool_choice.allowed_tools"
    mode = allowed.get("mode")
    if mode not in ("auto", "required"):
        raise CALLER.fault(f"{where}.mode", "must be auto or required")
    names = []
    for number, tool in enumerate(CALLER.objects(allowed.get("tools"), f"{where}.tools")):
        function = CALLER.object(tool.get("function"), f"{where}.tools.{number}.function")
        names.append(CALLER.text(function.get("name"), f"{where}.tools.{number}.function.name"))
    if not names:
        raise CALLER.fault(f"{where}.tools", "must name at least one tool")
    return Choice(mode, tuple(names))


@dataclass(slots=True, frozen=True)
class Format:
    """What shape the answer must have. `schema` None with kind `json_object`: any JSON object."""

    kind: str  # text, json_object, json_schema
    schema: Json | None = None


def response_format(body: Json) -> Format:
    asked = body.get("response_format")
    if asked is None:
        return Format("text")
    kind = CALLER.object(asked, "response_format").get("type")
    if kind in ("text", "json_object"):
        return Format(kind)
    if kind != "json_schema":
        raise CALLER.fault("response_format.type", "must be text, json_object or json_schema")
    described = CALLER.object(asked.get("json_schema"), "response_format.json_schema")
    return Format(kind, CALLER.object(described.get("schema"), "response_format.json_schema.schema"))


EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def reasoning_effort(body: Json) -> str | None:
    effort = body.get("reasoning_effort")
    if effort is None or effort in EFFORTS:
        return effort
    raise CALLER.fault("reasoning_effort", f"must be one of {', '.join(EFFORTS)}")


def embedding_texts(body: Json) -> list[str]:
    """The texts of an embeddings request in OpenAI's format."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise CALLER.fault("input", "must be a string, or a list of strings that is not empty")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise CALLER.fault(f"input.{number}", "must be a string: token numbers mean nothing to another model")
    return texts


def unsupported_url(where: str, provider: str) -> Fault:
    return CALLER.fault(where, f"is a link, and {provider} takes image data only: send it as a data: URL")

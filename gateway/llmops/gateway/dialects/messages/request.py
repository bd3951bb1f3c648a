"""Says a Claude client's request in canonical chat.

Knows the Messages API's request format; refuses what only Anthropic's own servers can do (server tools, containers,
files), naming the parameter, since the answer would not be what was asked for. What chat has no word for travels in the
extension fields of `llmops.gateway.chat`, for the case that Anthropic answers after all.

Source: https://platform.claude.com/docs/en/api/messages/create
"""

from __future__ import annotations

from typing import Any

from llmops.gateway import chat
from llmops.gateway.calls import Json
from llmops.gateway.reading import CALLER, dumped

_TAKEN = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "stop_sequences", "stream", "temperature", "top_p", "top_k"),
        *("tools", "tool_choice", "metadata", "thinking", "output_config", "service_tier", "cache_control"),
    }
)
_HINTS = frozenset({"diagnostics", "context_management"})
"""They save tokens or explain cache misses; the answer is the same without them."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {"speed": ("standard",), "betas": ([],), "mcp_servers": ([],)}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_TIERS = {"auto": "auto", "standard_only": "default"}
_EFFORT_FROM = ((4096, "low"), (16384, "medium"))


def chat_request(body: Json) -> Json:
    """The same request as canonical chat.

    Raises:
        Fault: `bad_request` for what cannot be read, or exists at Anthropic only.
    """
    for name, value in body.items():
        if value is None or name in _TAKEN or name in _HINTS or value in _NEUTRAL.get(name, ()):
            continue
        raise CALLER.fault(name, "is known to Anthropic's own models only")
    request: Json = chat.Extended(model=CALLER.text(body.get("model"), "model"), messages=_conversation(body))
    request["max_completion_tokens"] = CALLER.count(body.get("max_tokens"), "max_tokens")
    if request["max_completion_tokens"] < 1:
        raise CALLER.fault("max_tokens", "must be at least 1")
    if body.get("stream"):
        request["stream"], request["stream_options"] = True, {"include_usage": True}
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            request[name] = CALLER.number(body[name], name)
    if stop := body.get("stop_sequences"):
        request["stop"] = chat.stop_sequences({"stop": stop})
    _put_tools(body, request)
    _put_thinking(body, request)
    _put_hints(body, request)
    return request


def _conversation(body: Json) -> list[Json]:
    messages: list[Json] = []
    if system := _blocks(body.get("system"), "system"):
        messages.append({"role": "system", "content": _content(system, "system")})
    for where, message, role in chat.messages(body):
        blocks = _blocks(message.get("content"), f"{where}.content")
        if role == "system":
            messages.append({"role": "system", "content": _content(blocks, f"{where}.content")})
        elif role == "user":
            messages += _user(blocks, f"{where}.content")
        elif role == "assistant":
            messages.append(_assistant(blocks, f"{where}.content"))
        else:
            raise CALLER.fault(f"{where}.role", "must be user, assistant or system")
    return messages


def _blocks(content: Any, where: str) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks = CALLER.objects(content, where)
    for number, block in enumerate(blocks):
        CALLER.text(block.get("type"), f"{where}.{number}.type")
    return blocks


def _content(blocks: list[Json], where: str) -> str | list[Json]:
    """One text as a string, as most servers like it best; anything else as parts."""
    found = [_part(block, f"{where}.{number}") for number, block in enumerate(blocks)]
    if not found:
        return ""
    if len(found) == 1 and found[0].keys() == {"type", "text"}:
        return str(found[0]["text"])
    return found


def _part(block: Json, where: str) -> Json:
    kind = block["type"]
    if kind == "text":
        part: Json = {"type": "text", "text": CALLER.text(block.get("text"), f"{where}.text")}
    elif kind == "image":
        part = {"type": "image_url", "image_url": {"url": _image_url(block, where)}}
    elif kind == "document":
        part = _document(block, where)
    elif kind == "search_result":
        part = {"type": "text", "text": _search_result(block, where)}
    else:
        raise CALLER.fault(f"{where}.type", f"`{kind}` is known to Anthropic's own models only")
    return _marked(part, block)


def _marked(told: Json, block: Json) -> Json:
    """With the block's cache breakpoint."""
    if block.get("cache_control") is not None:
        told["cache_control"] = block["cache_control"]
    return told


def _image_url(block: Json, where: str) -> str:
    source = CALLER.object(block.get("source"), f"{where}.source")
    if source.get("type") == "base64":
        return _as_data_url(source, f"{where}.source")
    if source.get("type") == "url":
        return CALLER.text(source.get("url"), f"{where}.source.url")
    raise CALLER.fault(f"{where}.source.type", "must be base64 or url: files are kept by Anthropic only")


def _as_data_url(source: Json, where: str) -> str:
    media_type = CALLER.text(source.get("media_type"), f"{where}.media_type")
    url = f"data:{media_type};base64,{CALLER.text(source.get('data'), f'{where}.data')}"
    if chat.data_url(url, where) is None:
        raise CALLER.fault(where, "must hold base64 data")
    return url


def _document(block: Json, where: str) -> Json:
    source = CALLER.object(block.get("source"), f"{where}.source")
    title = CALLER.optional_text(block.get("title"), f"{where}.title")
    if source.get("type") == "base64":
        file = {"filename": title or "document.pdf", "file_data": _as_data_url(source, f"{where}.source")}
        return {"type": "file", "file": file}
    if source.get("type") == "text":
        text = CALLER.text(source.get("data"), f"{where}.source.data")
        return {"type": "text", "text": f"{title}\n\n{text}" if title else text}
    raise CALLER.fault(f"{where}.source.type", "must be base64 or text: the gateway fetches nothing")


def _search_result(block: Json, where: str) -> str:
    title, source = (CALLER.text(block.get(name), f"{where}.{name}") for name in ("title", "source"))
    texts = CALLER.objects(block.get("content"), f"{where}.content")
    return "\n".join([f"{title} ({source})", *(CALLER.text(text.get("text"), f"{where}.content") for text in texts)])


def _user(blocks: list[Json], where: str) -> list[Json]:
    """Tool results as messages of their own, before the rest; pictures in a result follow as the user's."""
    results: list[Json] = []
    rest: list[Json] = []
    for number, block in enumerate(blocks):
        if block["type"] == "tool_result":
            message, pictures = _tool_result(block, f"{where}.{number}")
            results.append(message)
            rest += pictures
        else:
            rest.append(block)
    if not rest and results:
        return results
    return [*results, {"role": "user", "content": _content(rest, where)}]


def _tool_result(block: Json, where: str) -> tuple[Json, list[Json]]:
    found = _blocks(block.get("content"), f"{where}.content")
    texts = [part for part in found if part["type"] != "image"]
    pictures = [part for part in found if part["type"] == "image"]
    id_ = CALLER.text(block.get("tool_use_id"), f"{where}.tool_use_id")
    content = _content(texts, f"{where}.content")
    if not content and block.get("is_error") is True:
        content = "error"
    message: Json = {"role": "tool", "tool_call_id": id_, "content": content}
    if block.get("is_error") is True:
        message["is_error"] = True
    if pictures:
        pictures.insert(0, {"type": "text", "text": f"Pictures of the tool result {id_}:"})
    return _marked(message, block), pictures


def _assistant(blocks: list[Json], where: str) -> Json:
    message: Json = {"role": "assistant", "content": None}
    texts, thoughts, thinking, calls = [], [], [], []
    for number, block in enumerate(blocks):
        path, kind = f"{where}.{number}", block["type"]
        if kind == "thinking":
            thought = CALLER.text(block.get("thinking"), f"{path}.thinking")
            if block.get("signature"):
                thinking.append(block)
            else:  # another model's, which this gateway put into a block
                thoughts.append(thought)
        elif kind == "redacted_thinking":
            thinking.append(block)
        elif kind == "tool_use":
            calls.append(_tool_call(block, path))
        elif kind == "text":
            texts.append(block)
        else:
            raise CALLER.fault(f"{path}.type", f"`{kind}` is known to Anthropic's own models only")
    if texts or not calls:
        message["content"] = _content(texts, where)
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if thinking:
        message["thinking_blocks"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: Json, where: str) -> Json:
    arguments = dumped(CALLER.object(block.get("input"), f"{where}.input")).decode()
    function = {"name": CALLER.text(block.get("name"), f"{where}.name"), "arguments": arguments}
    call: Json = {"id": CALLER.text(block.get("id"), f"{where}.id"), "type": "function", "function": function}
    if block.get("extra_content") is not None:
        call["extra_content"] = block["extra_content"]
    return _marked(call, block)


def _put_tools(body: Json, request: Json) -> None:
    if tools := [
        _tool(tool, f"tools.{number}") for number, tool in enumerate(CALLER.objects(body.get("tools"), "tools"))
    ]:
        request["tools"] = tools
    if body.get("tool_choice") is None:
        return
    choice = CALLER.object(body["tool_choice"], "tool_choice")
    if choice.get("type") == "tool":
        name = CALLER.text(choice.get("name"), "tool_choice.name")
        request["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice.get("type") in ("auto", "any", "none"):
        request["tool_choice"] = _CHOICES[choice["type"]]
    else:
        raise CALLER.fault("tool_choice.type", "must be auto, any, tool or none")
    if choice.get("disable_parallel_tool_use") is True:
        request["parallel_tool_calls"] = False


def _tool(tool: Json, where: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise CALLER.fault(f"{where}.type", f"`{tool['type']}` runs at Anthropic only: describe a tool of your own")
    function: Json = {
        "name": CALLER.text(tool.get("name"), f"{where}.name"),
        "parameters": CALLER.object(tool.get("input_schema"), f"{where}.input_schema"),
    }
    if tool.get("description") is not None:
        function["description"] = CALLER.text(tool["description"], f"{where}.description")
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"] is True
    return _marked({"type": "function", "function": function}, tool)


def _put_thinking(body: Json, request: Json) -> None:
    config = CALLER.object(body.get("output_config") or {}, "output_config")
    effort = config.get("effort")
    if effort is not None:
        request["output_config"] = {"effort": effort}
    if body.get("thinking") is not None:
        thinking = request["thinking"] = CALLER.object(body["thinking"], "thinking")
        if thinking.get("type") == "enabled" and effort is None:
            effort = _effort(CALLER.count(thinking.get("budget_tokens"), "thinking.budget_tokens"))
        elif thinking.get("type") == "adaptive" and effort is None:
            effort = "medium"
        elif thinking.get("type") == "disabled":
            effort = None
    if effort is not None:
        request["reasoning_effort"] = chat.reasoning_effort({"reasoning_effort": effort})
    if config.get("format") is not None:
        request["response_format"] = _format(CALLER.object(config["format"], "output_config.format"))


def _effort(budget: int) -> str:
    return next((name for limit, name in _EFFORT_FROM if budget < limit), "high")


def _format(told: Json) -> Json:
    if told.get("type") != "json_schema":
        raise CALLER.fault("output_config.format.type", "must be json_schema")
    schema = CALLER.object(told.get("schema"), "output_config.format.schema")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _put_hints(body: Json, request: Json) -> None:
    metadata = CALLER.object(body.get("metadata") or {}, "metadata")
    if metadata.get("user_id") is not None:
        request["user"] = CALLER.text(metadata["user_id"], "metadata.user_id")
    if body.get("cache_control") is not None:
        request["cache_control"] = CALLER.object(body["cache_control"], "cache_control")
    if (tier := body.get("service_tier")) is not None:
        if tier not in _TIERS:
            raise CALLER.fault("service_tier", "must be auto or standard_only")
        request["service_tier"] = _TIERS[tier]

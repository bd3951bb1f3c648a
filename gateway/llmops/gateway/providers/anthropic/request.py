"""Says a chat request in Anthropic's words.

Knows the Messages API's request format as of late 2026. Refuses to guess: what the API cannot do is a `bad_request`
that names the parameter. System messages are lifted to the top, wherever they stand, as Anthropic's own OpenAI
layer does; the results of parallel tool calls become one user turn, results first.

Source: https://platform.claude.com/docs/en/api/messages/create,
https://platform.claude.com/docs/en/cli-sdks-libraries/libraries/openai-sdk,
https://platform.claude.com/docs/en/build-with-claude/structured-outputs,
https://platform.claude.com/docs/en/build-with-claude/effort
"""

from __future__ import annotations

import re

from llmops.gateway import chat
from llmops.gateway.calls import Json
from llmops.gateway.config import TargetConfig
from llmops.gateway.reading import CALLER

NAME = "Anthropic"
MIN_THINKING_TOKENS = 1024

_KNOWN = chat.GENERATION | {"top_k", "thinking", "output_config", "service_tier"}
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_BUDGETED = re.compile(r"claude-(?:3|[a-z]+-3|(?:opus|sonnet|haiku)-4(?:-[0-5])?(?:-\d{8}|@|:|$))")
"""Models up to 4.5, which think by a budget of tokens; later ones, and names not known here, think by effort."""

_SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.9, "max": 0.95}
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_TIERS = {"auto": "auto", "default": "standard_only"}


def messages_request(body: Json, target: TargetConfig) -> Json:
    """The body for `/v1/messages`.

    Raises:
        Fault: `bad_request` for what cannot be read, or cannot be said to Anthropic.
    """
    chat.refuse_unknown(body, _KNOWN, NAME)
    system, turns = _conversation(body)
    request: Json = {
        "model": target.model,
        "max_tokens": chat.output_limit(body, target.max_output_tokens),
        "messages": turns,
    }
    if system:
        request["system"] = system
    if body.get("stream"):
        request["stream"] = True
    if stop := chat.stop_sequences(body):
        request["stop_sequences"] = stop
    _put_sampling(body, request)
    _put_tools(body, request)
    _put_thinking(body, request, target.model)
    _put_format(body, request)
    _put_hints(body, request)
    return request


def _conversation(body: Json) -> tuple[list[Json], list[Json]]:
    """System blocks, and turns in which the roles alternate."""
    system: list[Json] = []
    turns: list[Json] = []
    for where, message, role in chat.messages(body):
        if role in ("system", "developer"):
            system += _texts(message, where)
        elif role == "user":
            _add(turns, "user", _user_blocks(message.get("content"), f"{where}.content", message))
        elif role == "assistant":
            _add(turns, "assistant", _assistant_blocks(message, where))
        elif role == "tool":
            _add(turns, "user", [_tool_result(message, where)])
        else:
            raise CALLER.fault(f"{where}.role", "must be system, developer, user, assistant or tool")
    if not turns:
        raise CALLER.fault("messages", "must hold a message of the user that is not empty")
    for turn in turns:
        if turn["role"] == "user":  # Anthropic wants results before anything else; the sort keeps all other order
            turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return system, turns


def _add(turns: list[Json], role: str, blocks: list[Json]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _texts(message: Json, where: str) -> list[Json]:
    return [_text(part, f"{where}.content", message) for part in chat.parts(message.get("content"), f"{where}.content")]


def _text(part: Json, where: str, message: Json | None = None) -> Json:
    if part["type"] not in ("text", "refusal"):
        raise CALLER.fault(where, f"holds a part of type `{part['type']}`: only text is possible here")
    return _marked({"type": "text", "text": CALLER.text(part.get(part["type"]), where)}, part, message or {})


def _marked(block: Json, *sources: Json) -> Json:
    """With the cache breakpoint that one of the sources carries."""
    for source in sources:
        if source.get("cache_control") is not None:
            block["cache_control"] = CALLER.object(source["cache_control"], "cache_control")
            break
    return block


def _user_blocks(content: object, where: str, message: Json) -> list[Json]:
    found = chat.parts(content, where)
    blocks = []
    for number, part in enumerate(found):
        last = message if number == len(found) - 1 else {}
        path = f"{where}.{number}"
        if part["type"] == "image_url":
            blocks.append(_marked(_image(chat.image_url(part, path), path), part, last))
        elif part["type"] == "file":
            blocks.append(_marked(_document(part, path), part, last))
        else:
            blocks.append(_text(part, path, last))
    return blocks


def _image(url: str, where: str) -> Json:
    data = chat.data_url(url, where)
    if data is None:
        if not url.startswith("https://"):
            raise CALLER.fault(where, "must be an https:// link or a data: URL")
        return {"type": "image", "source": {"type": "url", "url": url}}
    if data.media_type not in _IMAGES:
        raise CALLER.fault(where, f"must be one of {', '.join(_IMAGES)}")
    return {"type": "image", "source": {"type": "base64", "media_type": data.media_type, "data": data.base64}}


def _document(part: Json, where: str) -> Json:
    file = CALLER.object(part.get("file"), f"{where}.file")
    if file.get("file_data") is None:
        raise CALLER.fault(
            f"{where}.file", "must hold its content as `file_data`: files of OpenAI are not at Anthropic"
        )
    data = chat.data_url(CALLER.text(file["file_data"], f"{where}.file.file_data"), f"{where}.file.file_data")
    if data is None or data.media_type != "application/pdf":
        raise CALLER.fault(f"{where}.file.file_data", "must be a data URL of a PDF")
    source = {"type": "base64", "media_type": data.media_type, "data": data.base64}
    block: Json = {"type": "document", "source": source}
    if file.get("filename") is not None:
        block["title"] = CALLER.text(file["filename"], f"{where}.file.filename")
    return block


def _assistant_blocks(message: Json, where: str) -> list[Json]:
    """Thinking first, as the model gave it; unsigned reasoning of other providers cannot be sent back."""
    blocks = []
    for number, block in enumerate(CALLER.objects(message.get("thinking_blocks"), f"{where}.thinking_blocks")):
        if block.get("type") not in ("thinking", "redacted_thinking"):
            raise CALLER.fault(f"{where}.thinking_blocks.{number}.type", "must be thinking or redacted_thinking")
        blocks.append(block)
    found = chat.parts(message.get("content"), f"{where}.content")
    blocks += [_text(part, f"{where}.content") for part in found]
    for call in chat.tool_calls(message, where):
        use = {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": call.arguments}
        blocks.append(_marked(use, call.raw))
    if blocks and blocks[-1]["type"] in ("text", "tool_use"):
        _marked(blocks[-1], message)
    return blocks


def _tool_result(message: Json, where: str) -> Json:
    block: Json = {
        "type": "tool_result",
        "tool_use_id": _id(CALLER.text(message.get("tool_call_id"), f"{where}.tool_call_id")),
    }
    if content := _user_blocks(message.get("content"), f"{where}.content", {}):
        block["content"] = content
    if message.get("is_error") is True:
        block["is_error"] = True
    return _marked(block, message)


def _id(id_: str) -> str:
    """Other providers' ids of tool calls may hold signs that Anthropic refuses."""
    return _NOT_IN_ID.sub("_", id_) or "_"


def _put_sampling(body: Json, request: Json) -> None:
    """Newer models take no sampling parameters at all; they say so themselves, for each model its own way."""
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            request[name] = CALLER.number(body[name], name)
    if not 0 <= request.get("temperature", 0) <= 1:
        raise CALLER.fault("temperature", "must be from 0 to 1 for Anthropic")


def _put_tools(body: Json, request: Json) -> None:
    tools, choice = chat.tools(body), chat.tool_choice(body)
    if not tools:
        if choice is not None and choice.mode == "required":
            raise CALLER.fault("tool_choice", "asks for a tool, and `tools` holds none")
        return
    single = body.get("parallel_tool_calls") is False
    choice = choice or chat.Choice("auto")
    asked: Json = {"type": _CHOICES[choice.mode]}
    if choice.mode == "required" and len(choice.names) == 1:
        asked = {"type": "tool", "name": choice.names[0]}
    elif choice.names:
        tools = [tool for tool in tools if tool.name in choice.names]
    request["tools"] = [_tool(tool) for tool in tools]
    if body.get("tool_choice") is None and not single:
        return
    if single and choice.mode != "none":
        asked["disable_parallel_tool_use"] = True
    request["tool_choice"] = asked


def _tool(tool: chat.Tool) -> Json:
    told: Json = {"name": tool.name, "input_schema": tool.parameters}
    if tool.description is not None:
        told["description"] = tool.description
    if tool.strict:
        told["strict"] = True
    return _marked(told, tool.raw)


def _put_thinking(body: Json, request: Json, model: str) -> None:
    request |= thinking(body, model, request["max_tokens"], unthought=_acts_unthought(request["messages"]))


def thinking(body: Json, model: str, limit: int, *, unthought: bool) -> Json:
    """How much to think, in Anthropic's fields.

    Its own words are passed on; `reasoning_effort` becomes an effort, or a budget for models up to 4.5, but for a
    conversation that goes on from a turn without its thinking (`unthought`).
    """
    effort = chat.reasoning_effort(body)
    given = [name for name in ("thinking", "output_config") if body.get(name) is not None]
    if given:
        return {name: CALLER.object(body[name], name) for name in given}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if effort is None:
        return {}
    if _BUDGETED.search(model):
        return {} if unthought else {"thinking": {"type": "enabled", "budget_tokens": _budget(effort, limit)}}
    return {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": _effort(effort)}}


def _acts_unthought(turns: list[Json]) -> bool:
    """Whether tool results answer a turn that came back without its thinking, as OpenAI's clients send it.

    A model with a budget refuses to think on from there; it answers without. Those that think by effort do not mind.

    Source: https://platform.claude.com/docs/en/build-with-claude/extended-thinking (preserving thinking blocks)
    """
    if len(turns) < 2 or turns[-1]["content"][0]["type"] != "tool_result":
        return False
    return turns[-2]["content"][0]["type"] not in ("thinking", "redacted_thinking")


def _effort(effort: str | None) -> str:
    return "low" if effort in (None, "minimal") else str(effort)


def _budget(effort: str, max_tokens: int) -> int:
    if max_tokens <= MIN_THINKING_TOKENS:
        raise CALLER.fault("reasoning_effort", f"needs a maximum of more than {MIN_THINKING_TOKENS} output tokens")
    return min(max(int(max_tokens * _SHARES[effort]), MIN_THINKING_TOKENS), max_tokens - 1)


def _put_format(body: Json, request: Json) -> None:
    asked = chat.response_format(body)
    if asked.kind == "json_object":
        raise CALLER.fault("response_format", "`json_object` does not exist at Anthropic: give a `json_schema`")
    if asked.schema is not None:
        described = {"type": "json_schema", "schema": asked.schema}
        request["output_config"] = {**request.get("output_config", {}), "format": described}


def _put_hints(body: Json, request: Json) -> None:
    user = body.get("safety_identifier") or body.get("user")
    if user is not None:
        request["metadata"] = {"user_id": CALLER.text(user, "user")}
    if body.get("cache_control") is not None:
        request["cache_control"] = CALLER.object(body["cache_control"], "cache_control")
    if (tier := body.get("service_tier")) is not None:
        if tier not in _TIERS:
            raise CALLER.fault("service_tier", "must be auto or default for Anthropic")
        request["service_tier"] = _TIERS[tier]

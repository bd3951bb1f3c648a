"""A Responses request as a chat request: items become messages, flat tools become nested ones.

Reasoning items of earlier turns are left out: chat has no place in which every upstream would take them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmops.gateway.calls import Json
from llmops.gateway.dialects.chat import flag
from llmops.gateway.reading import CALLER

_STORED = {
    "previous_response_id": "send the earlier messages in `input`",
    "conversation": "send the earlier messages in `input`",
    "prompt": "send the prompt's text in `instructions`",
    "background": "leave it out, and stream",
}
_OWN = frozenset(
    {
        *("input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice", "include"),
        *("max_tool_calls", "store", "truncation", "stream_options", "top_logprobs", "context_management"),
        *("n", "n_cmpl", "best_of", "prediction", "max_tokens", "max_completion_tokens"),  # not of this API
        *_STORED,
    }
)
_ROLES = ("user", "assistant", "system", "developer")


def to_chat(body: Json) -> Json:
    """The chat request. Fields that neither API's description names go along, for servers that know them."""
    for name, instead in _STORED.items():
        if body.get(name):
            raise CALLER.fault(name, f"needs an upstream with the Responses API itself: {instead}")
    flag(body, "stream")
    CALLER.object(body.get("stream_options") or {}, "stream_options")
    request = {name: value for name, value in body.items() if name not in _OWN}
    request["messages"] = _messages(body)
    if body.get("max_output_tokens") is not None:
        request["max_completion_tokens"] = CALLER.count(body["max_output_tokens"], "max_output_tokens")
    _put_text(body, request)
    _put_reasoning(body, request)
    _put_logprobs(body, request)
    if tools := CALLER.objects(body.get("tools"), "tools"):
        request["tools"] = [_tool(tool, f"tools.{number}") for number, tool in enumerate(tools)]
    if body.get("tool_choice") is not None:
        request["tool_choice"] = _tool_choice(body["tool_choice"])
    return request


def _messages(body: Json) -> list[Json]:
    messages: list[Json] = []
    instructions = CALLER.optional_text(body.get("instructions"), "instructions")
    if instructions:
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
        return messages
    items = CALLER.objects(given, "input")
    if not items:
        raise CALLER.fault("input", "must be a text or a list of at least one item")
    for number, item in enumerate(items):
        _put_item(messages, item, f"input.{number}")
    if not messages:
        raise CALLER.fault("input", "must hold at least one message")
    return messages


def _put_item(messages: list[Json], item: Json, where: str) -> None:
    kind = item.get("type")
    if kind in (None, "message"):
        messages.append(_message(item, where))
    elif kind in ("function_call", "custom_tool_call"):
        _last_assistant(messages).setdefault("tool_calls", []).append(_call(item, kind, where))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        call_id = CALLER.text(item.get("call_id"), f"{where}.call_id")
        output = _tool_output(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
    elif kind != "reasoning":
        raise CALLER.fault(f"{where}.type", f"`{str(kind)[:60]}` needs an upstream with the Responses API itself")


def _last_assistant(messages: list[Json]) -> Json:
    """Calls belong to the assistant's message before them; where there is none, they make one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _message(item: Json, where: str) -> Json:
    role = item.get("role")
    if role not in _ROLES:
        raise CALLER.fault(f"{where}.role", "must be user, assistant, system or developer")
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = CALLER.objects(content, f"{where}.content")
    return {"role": role, "content": [_part(part, f"{where}.content.{number}") for number, part in enumerate(parts)]}


def _part(part: Json, where: str) -> Json:
    kind = part.get("type")
    convert = _PARTS.get(kind) if isinstance(kind, str) else None
    if convert is None:
        raise CALLER.fault(f"{where}.type", "must be input_text, input_image, input_file or output_text")
    return convert(part, where)


def _text(part: Json, where: str) -> Json:
    return {"type": "text", "text": CALLER.text(part.get("text"), f"{where}.text")}


def _refusal(part: Json, where: str) -> Json:
    return {"type": "refusal", "refusal": CALLER.text(part.get("refusal"), f"{where}.refusal")}


def _image(part: Json, where: str) -> Json:
    if part.get("file_id"):
        raise CALLER.fault(f"{where}.file_id", "names a stored file: send the image as `image_url`")
    image = {"url": CALLER.text(part.get("image_url"), f"{where}.image_url")}
    if detail := CALLER.optional_text(part.get("detail"), f"{where}.detail"):
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


def _file(part: Json, where: str) -> Json:
    if part.get("file_id") or part.get("file_url"):
        raise CALLER.fault(where, "names a file that is elsewhere: send it as `file_data`")
    file = {"file_data": CALLER.text(part.get("file_data"), f"{where}.file_data")}
    if name := CALLER.optional_text(part.get("filename"), f"{where}.filename"):
        file["filename"] = name
    return {"type": "file", "file": file}


def _audio(part: Json, where: str) -> Json:
    return {"type": "input_audio", "input_audio": CALLER.object(part.get("input_audio"), f"{where}.input_audio")}


_PARTS: dict[str, Callable[[Json, str], Json]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}


def _call(item: Json, kind: str, where: str) -> Json:
    call_id = CALLER.text(item.get("call_id"), f"{where}.call_id")
    name = CALLER.text(item.get("name"), f"{where}.name")
    if kind == "function_call":
        arguments = CALLER.text(item.get("arguments"), f"{where}.arguments")
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    given = CALLER.text(item.get("input"), f"{where}.input")
    return {"id": call_id, "type": "custom", "custom": {"name": name, "input": given}}


def _tool_output(output: Any, where: str) -> str | list[Json]:
    if isinstance(output, str):
        return output
    if not isinstance(output, list):
        raise CALLER.fault(where, "must be a text or a list of parts")
    return [_part(part, f"{where}.{number}") for number, part in enumerate(CALLER.objects(output, where))]


def _put_text(body: Json, request: Json) -> None:
    text = CALLER.object(body.get("text") or {}, "text")
    if text.get("verbosity") is not None:
        request["verbosity"] = CALLER.text(text["verbosity"], "text.verbosity")
    shape = CALLER.object(text.get("format") or {}, "text.format")
    kind = shape.get("type")
    if kind == "json_schema":
        CALLER.object(shape.get("schema"), "text.format.schema")
        described = {name: shape[name] for name in ("name", "description", "schema", "strict") if name in shape}
        request["response_format"] = {"type": "json_schema", "json_schema": described}
    elif kind == "json_object":
        request["response_format"] = {"type": "json_object"}
    elif kind not in (None, "text"):
        raise CALLER.fault("text.format.type", "must be text, json_object or json_schema")


def _put_reasoning(body: Json, request: Json) -> None:
    """The effort; a summary is given wherever the upstream shows its reasoning, asked for or not."""
    reasoning = CALLER.object(body.get("reasoning") or {}, "reasoning")
    if reasoning.get("effort") is not None:
        request["reasoning_effort"] = CALLER.text(reasoning["effort"], "reasoning.effort")


def _put_logprobs(body: Json, request: Json) -> None:
    include = body.get("include")
    if include is not None and not (isinstance(include, list) and all(isinstance(name, str) for name in include)):
        raise CALLER.fault("include", "must be a list of names")
    top = CALLER.count(body.get("top_logprobs"), "top_logprobs")
    if top or "message.output_text.logprobs" in (include or ()):
        request["logprobs"] = True
        request["top_logprobs"] = top


def _tool(tool: Json, where: str) -> Json:
    kind = tool.get("type")
    if kind == "function":
        CALLER.text(tool.get("name"), f"{where}.name")
        fields = {name: tool[name] for name in ("name", "description", "parameters", "strict") if name in tool}
        return {"type": "function", "function": {name: value for name, value in fields.items() if value is not None}}
    if kind == "custom":
        CALLER.text(tool.get("name"), f"{where}.name")
        custom: Json = {name: tool[name] for name in ("name", "description") if name in tool}
        if tool.get("format") is not None:
            custom["format"] = _grammar(CALLER.object(tool["format"], f"{where}.format"))
        return {"type": "custom", "custom": custom}
    raise CALLER.fault(f"{where}.type", f"`{str(kind)[:60]}` runs at OpenAI only: give a function of your own")


def _grammar(shape: Json) -> Json:
    if shape.get("type") != "grammar":
        return shape
    return {"type": "grammar", "grammar": {name: shape.get(name) for name in ("syntax", "definition")}}


def _tool_choice(choice: Any) -> Any:
    where = "tool_choice"
    if isinstance(choice, str):
        if choice in ("auto", "none", "required"):
            return choice
        raise CALLER.fault(where, "must be auto, none, required, or an object")
    kind = CALLER.object(choice, where).get("type")
    if kind in ("function", "custom"):
        return {"type": kind, kind: {"name": CALLER.text(choice.get("name"), f"{where}.name")}}
    if kind == "allowed_tools":
        named = CALLER.objects(choice.get("tools"), f"{where}.tools")
        tools = [_tool_choice(tool) for tool in named]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": tools}}
    raise CALLER.fault(f"{where}.type", f"`{str(kind)[:60]}` runs at OpenAI only: give a function of your own")

"""Says chat and embeddings requests in Gemini's words.

Knows `generateContent` and `batchEmbedContents` as of late 2026. Pictures must be data: Gemini reads links to its own
file store only, and the gateway fetches nothing. Function calls that carry no signature of Gemini's thoughts (they came
from another model) get the one that Google gives for histories of other models.

Source: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/thought-signatures,
https://ai.google.dev/gemini-api/docs/thinking, https://ai.google.dev/gemini-api/docs/openai#thinking
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from llmops.gateway import chat
from llmops.gateway.calls import Json
from llmops.gateway.config import TargetConfig
from llmops.gateway.reading import CALLER

NAME = "Gemini"
NO_SIGNATURE = "skip_thought_signature_validator"

_KNOWN = chat.GENERATION | {"top_k", "seed", "presence_penalty", "frequency_penalty"}
_NUMBERS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
_BUDGETED = re.compile(r"gemini-(?:1|2)[.-]")
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}
_EMBEDDING_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})


def model_path(model: str) -> str:
    """`models/NAME`; a name that says its collection already (`tunedModels/...`) stays."""
    return model if "/" in model else f"models/{model}"


def generate_request(body: Json, target: TargetConfig) -> Json:
    """The body for `generateContent` and `streamGenerateContent`.

    Raises:
        Fault: `bad_request` for what cannot be read, or cannot be said to Gemini.
    """
    chat.refuse_unknown(body, _KNOWN, NAME)
    system, contents = _conversation(body)
    request: Json = {"contents": contents, "generationConfig": _generation(body, target)}
    if system:
        request["systemInstruction"] = {"parts": system}
    _put_tools(body, request)
    return request


def embed_request(body: Json, target: TargetConfig) -> Json:
    """The body for `batchEmbedContents`: one request for each text."""
    for name, value in body.items():
        if value is not None and name not in _EMBEDDING_KNOWN:
            raise CALLER.fault(name, f"has no counterpart at {NAME}")
    model = model_path(target.model)
    requests = []
    for text in chat.embedding_texts(body):
        request: Json = {"model": model, "content": {"parts": [{"text": text}]}}
        if body.get("dimensions") is not None:
            request["outputDimensionality"] = CALLER.count(body["dimensions"], "dimensions")
        requests.append(request)
    return {"requests": requests}


def _conversation(body: Json) -> tuple[list[Json], list[Json]]:
    """Parts of the system instruction, and turns in which the roles alternate."""
    system: list[Json] = []
    turns: list[Json] = []
    names: dict[str, str] = {}
    for where, message, role in chat.messages(body):
        if role in ("system", "developer"):
            if text := chat.plain_text(message.get("content"), f"{where}.content"):
                system.append({"text": text})
        elif role == "user":
            _add(turns, "user", _user_parts(message.get("content"), f"{where}.content"))
        elif role == "assistant":
            calls = chat.tool_calls(message, where)
            names.update({call.id: call.name for call in calls})
            _add(turns, "model", _model_parts(message, calls, where))
        elif role == "tool":
            _add(turns, "user", [_function_response(message, names, where)])
        else:
            raise CALLER.fault(f"{where}.role", "must be system, developer, user, assistant or tool")
    if not turns:
        raise CALLER.fault("messages", "must hold a message of the user that is not empty")
    return system, turns


def _add(turns: list[Json], role: str, parts: list[Json]) -> None:
    if not parts:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["parts"] += parts
    else:
        turns.append({"role": role, "parts": parts})


def _user_parts(content: object, where: str) -> list[Json]:
    return [_user_part(part, f"{where}.{number}") for number, part in enumerate(chat.parts(content, where))]


def _user_part(part: Json, where: str) -> Json:
    kind = part["type"]
    if kind == "text":
        return {"text": CALLER.text(part.get("text"), f"{where}.text")}
    if kind == "image_url":
        return _inline(chat.image_url(part, where), f"{where}.image_url")
    if kind == "file":
        file = CALLER.object(part.get("file"), f"{where}.file")
        return _inline(CALLER.text(file.get("file_data"), f"{where}.file.file_data"), f"{where}.file.file_data")
    if kind == "input_audio":
        audio = CALLER.object(part.get("input_audio"), f"{where}.input_audio")
        form, data = (CALLER.text(audio.get(name), f"{where}.input_audio.{name}") for name in ("format", "data"))
        return _inline(f"data:audio/{form};base64,{data}", f"{where}.input_audio")
    raise CALLER.fault(f"{where}.type", f"`{kind}` is not possible at {NAME}")


def _inline(url: str, where: str) -> Json:
    data = chat.data_url(url, where)
    if data is None:
        raise chat.unsupported_url(where, NAME)
    return {"inlineData": {"mimeType": data.media_type, "data": data.base64}}


def _model_parts(message: Json, calls: list[chat.ToolCall], where: str) -> list[Json]:
    """Text, then calls. Only the first of parallel calls carries a signature, so only it can lack one."""
    parts: list[Json] = []
    if text := chat.plain_text(message.get("content"), f"{where}.content"):
        parts.append({"text": text, **_signature(message)})
    for number, call in enumerate(calls):
        said: Json = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}}
        signature = _signature(call.raw)
        if number == 0 and not signature:
            signature = {"thoughtSignature": NO_SIGNATURE}
        parts.append({**said, **signature})
    return parts


def _signature(holder: Json) -> Json:
    """What Google's OpenAI-compatible API keeps in `extra_content`."""
    extra = holder.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return {"thoughtSignature": signature} if isinstance(signature, str) and signature else {}


def _function_response(message: Json, names: dict[str, str], where: str) -> Json:
    id_ = CALLER.text(message.get("tool_call_id"), f"{where}.tool_call_id")
    if id_ not in names:
        raise CALLER.fault(f"{where}.tool_call_id", "names no tool call of an earlier message")
    text = chat.plain_text(message.get("content"), f"{where}.content")
    key = "error" if message.get("is_error") is True else "output"
    return {"functionResponse": {"id": id_, "name": names[id_], "response": {key: _value(text)}}}


def _value(text: str) -> Any:
    """JSON objects and lists as such, anything else as text."""
    if text[:1] in ("{", "["):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text


def _generation(body: Json, target: TargetConfig) -> Json:
    config: Json = {"maxOutputTokens": chat.output_limit(body, target.max_output_tokens)}
    for name, theirs in _NUMBERS.items():
        if body.get(name) is not None:
            config[theirs] = CALLER.number(body[name], name)
    if body.get("seed") is not None:
        seed = CALLER.number(body["seed"], "seed")
        if not isinstance(seed, int) or not -(2**31) <= seed < 2**31:
            raise CALLER.fault("seed", f"must be a whole number of 32 bits for {NAME}")
        config["seed"] = seed
    if stop := chat.stop_sequences(body):
        config["stopSequences"] = stop
    asked = chat.response_format(body)
    if asked.kind != "text":
        config["responseMimeType"] = "application/json"
    if asked.schema is not None:
        config["responseJsonSchema"] = asked.schema
    if (effort := chat.reasoning_effort(body)) is not None:
        config["thinkingConfig"] = _thinking(effort, target.model)
    return config


def _thinking(effort: str, model: str) -> Json:
    """A budget for models before Gemini 3, a level for later ones, which cannot be kept from thinking altogether."""
    told: Json = {"includeThoughts": effort != "none"}
    if _BUDGETED.search(model):
        return {**told, "thinkingBudget": _BUDGETS[effort]}
    return {**told, "thinkingLevel": _LEVELS.get(effort, "XHIGH")}


def _put_tools(body: Json, request: Json) -> None:
    tools, choice = chat.tools(body), chat.tool_choice(body)
    if not tools:
        if choice is not None and choice.mode == "required":
            raise CALLER.fault("tool_choice", "asks for a tool, and `tools` holds none")
        return
    if body.get("parallel_tool_calls") is False:
        raise CALLER.fault("parallel_tool_calls", f"cannot be switched off at {NAME}")
    if choice is not None and choice.names and choice.mode == "auto":
        tools = [tool for tool in tools if tool.name in choice.names]
    request["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in tools]}]
    if choice is not None:
        calling: Json = {"mode": _MODES[choice.mode]}
        if choice.names and choice.mode == "required":
            calling["allowedFunctionNames"] = list(choice.names)
        request["toolConfig"] = {"functionCallingConfig": calling}


def _declaration(tool: chat.Tool) -> Json:
    told: Json = {"name": tool.name, "parametersJsonSchema": tool.parameters}
    if tool.description is not None:
        told["description"] = tool.description
    return told

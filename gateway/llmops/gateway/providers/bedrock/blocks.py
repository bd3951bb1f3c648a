"""Says messages and tools as Converse's content blocks.

Knows the blocks and their bounds; what is asked beside them is `request`'s matter. Cache points stand only where the
model's maker knows them: they are a wish, and other models refuse them. A tool's result comes first in its turn.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from llmops.gateway import chat
from llmops.gateway.calls import Json
from llmops.gateway.reading import CALLER

_PROVIDER = "Bedrock"
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_.:-]")
_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9()\[\]-]+")
_LONGEST_ID = 64
_LONGEST_NAME = 200


class Blocks:
    """The blocks of one request. `used_tools`: the names of the tools that the conversation holds calls of."""

    def __init__(self, *, caches: bool, thinks: bool) -> None:
        self._caches = caches
        self._thinks = thinks
        self._documents = 0
        self.used_tools: list[str] = []

    def conversation(self, body: Json) -> tuple[list[Json], list[Json]]:
        """System blocks, and turns in which the roles alternate."""
        system: list[Json] = []
        turns: list[Json] = []
        for where, message, role in chat.messages(body):
            if role in ("system", "developer"):
                system += self._texts(message, where)
            elif role == "user":
                _add(turns, "user", self._user(message.get("content"), f"{where}.content", message))
            elif role == "assistant":
                _add(turns, "assistant", self._assistant(message, where))
            elif role == "tool":
                _add(turns, "user", self._result(message, where))
            else:
                raise CALLER.fault(f"{where}.role", "must be system, developer, user, assistant or tool")
        if not turns:
            raise CALLER.fault("messages", "must hold a message of the user that is not empty")
        for turn in turns:
            if turn["role"] == "user":
                turn["content"] = _results_first(turn["content"])
        return system, turns

    def past_tools(self) -> list[chat.Tool]:
        """The tools of the conversation, of which nothing is known but their names."""
        return [chat.Tool(name, None, {"type": "object"}, False, {}) for name in self.used_tools]

    def tool(self, tool: chat.Tool) -> list[Json]:
        spec: Json = {"name": tool.name, "inputSchema": {"json": tool.parameters}}
        if tool.description:
            spec["description"] = tool.description
        if tool.strict:
            spec["strict"] = True
        return self._marked({"toolSpec": spec}, tool.raw)

    def _marked(self, block: Json, *sources: Json) -> list[Json]:
        """The block, and after it the cache point that one of the sources asks for."""
        found = next((source["cache_control"] for source in sources if source.get("cache_control") is not None), None)
        if found is None or not self._caches:
            return [block]
        point: Json = {"type": "default"}
        if CALLER.object(found, "cache_control").get("ttl") is not None:
            point["ttl"] = CALLER.text(found["ttl"], "cache_control.ttl")
        return [block, {"cachePoint": point}]

    def _texts(self, message: Json, where: str) -> list[Json]:
        found = chat.parts(message.get("content"), f"{where}.content")
        return [block for part in found for block in self._marked(_text(part, f"{where}.content"), part, message)]

    def _user(self, content: object, where: str, message: Json) -> list[Json]:
        found = chat.parts(content, where)
        blocks: list[Json] = []
        for number, part in enumerate(found):
            last = message if number == len(found) - 1 else {}
            blocks += self._marked(self._part(part, f"{where}.{number}"), part, last)
        return blocks

    def _part(self, part: Json, where: str) -> Json:
        if part["type"] == "image_url":
            return _image(chat.image_url(part, where), where)
        if part["type"] == "file":
            return self._document(CALLER.object(part.get("file"), f"{where}.file"), f"{where}.file")
        return _text(part, where)

    def _document(self, file: Json, where: str) -> Json:
        """Converse wants a name of few kinds of letters, which differs from those of the other documents."""
        data = chat.data_url(CALLER.text(file.get("file_data"), f"{where}.file_data"), f"{where}.file_data")
        kind = None if data is None else _DOCUMENTS.get(data.media_type)
        if data is None or kind is None:
            raise CALLER.fault(f"{where}.file_data", f"must be a data URL of one of {', '.join(_DOCUMENTS)}")
        self._documents += 1
        stem = _NOT_IN_NAME.sub(" ", CALLER.optional_text(file.get("filename"), f"{where}.filename") or "document")
        name = f"{stem.strip()[: _LONGEST_NAME - 20]} {self._documents}".strip()
        return {"document": {"format": kind, "name": name, "source": {"bytes": data.base64}}}

    def _assistant(self, message: Json, where: str) -> list[Json]:
        """Thinking first, as the model gave it; reasoning that nobody signed cannot be sent back."""
        blocks: list[Json] = []
        for number, block in enumerate(CALLER.objects(message.get("thinking_blocks"), f"{where}.thinking_blocks")):
            told = _reasoning(block, f"{where}.thinking_blocks.{number}")
            if self._thinks and told is not None:
                blocks.append(told)
        for part in chat.parts(message.get("content"), f"{where}.content"):
            blocks += self._marked(_text(part, f"{where}.content"), part)
        for call in chat.tool_calls(message, where):
            self.used_tools += [] if call.name in self.used_tools else [call.name]
            use = {"toolUseId": _id(call.id), "name": call.name, "input": call.arguments}
            blocks += self._marked({"toolUse": use}, call.raw)
        if blocks and ("text" in blocks[-1] or "toolUse" in blocks[-1]):
            blocks[-1:] = self._marked(blocks[-1], message)
        return blocks

    def _result(self, message: Json, where: str) -> list[Json]:
        content = [
            self._part(part, f"{where}.content.{number}")
            for number, part in enumerate(chat.parts(message.get("content"), f"{where}.content"))
        ]
        id_ = _id(CALLER.text(message.get("tool_call_id"), f"{where}.tool_call_id"))
        result: Json = {"toolUseId": id_, "content": content}
        if message.get("is_error") is True:
            result["status"] = "error"
        return self._marked({"toolResult": result}, message)


def _add(turns: list[Json], role: str, blocks: list[Json]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _results_first(blocks: list[Json]) -> list[Json]:
    """A cache point stays behind its block."""
    groups: list[list[Json]] = []
    for block in blocks:
        if "cachePoint" in block and groups:
            groups[-1].append(block)
        else:
            groups.append([block])
    groups.sort(key=lambda group: "toolResult" not in group[0])
    return [block for group in groups for block in group]


def _text(part: Json, where: str) -> Json:
    if part["type"] not in ("text", "refusal"):
        raise CALLER.fault(where, f"holds a part of type `{part['type']}`, which is not possible here")
    return {"text": CALLER.text(part.get(part["type"]), where)}


def _image(url: str, where: str) -> Json:
    data = chat.data_url(url, where)
    if data is None:
        raise chat.unsupported_url(where, _PROVIDER)
    if data.media_type not in _IMAGES:
        raise CALLER.fault(where, f"must be one of {', '.join(_IMAGES)}")
    return {"image": {"format": _IMAGES[data.media_type], "source": {"bytes": data.base64}}}


def _reasoning(block: Json, where: str) -> Json | None:
    kind: Any = block.get("type")
    if kind == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": CALLER.text(block.get("data"), f"{where}.data")}}
    if kind != "thinking":
        raise CALLER.fault(f"{where}.type", "must be thinking or redacted_thinking")
    text = CALLER.text(block.get("thinking"), f"{where}.thinking")
    signature = CALLER.optional_text(block.get("signature"), f"{where}.signature")
    return {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}} if signature else None


def _id(id_: str) -> str:
    """Other providers' ids of tool calls may hold signs that Converse refuses, or be too long for it."""
    clean = _NOT_IN_ID.sub("_", id_) or "_"
    return clean if len(clean) <= _LONGEST_ID else f"call_{sha256(id_.encode(errors='replace')).hexdigest()[:48]}"

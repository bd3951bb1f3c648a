"""Finds the URLs that a request asks an upstream to fetch: pictures, and what else stands in content parts.

The gateway follows none of them; a provider's servers might, and a model server within our own network surely does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmops.gateway.calls import Json, Operation

MAX_URLS = 1000
_FIELDS = frozenset({"image_url", "file_url", "video_url", "audio_url", "file_uri", "fileUri", "images"})
_HOLDERS = _FIELDS | {"source", "image", "file", "video", "audio", "input_audio", "file_data", "fileData"}
_LINKS = frozenset({"url", "uri"})  # a link elsewhere is quoted, not fetched
_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use", "function_call", "custom_tool_call", "mcp_call"})
"""What a model asked a tool to do: whatever stands there, the provider fetches nothing for it."""


def fetched_urls(operation: Operation, body: Json) -> Iterator[str]:
    """Every URL in the content parts of the request. Costs next to nothing where contents are plain strings."""
    if operation in ("chat", "messages"):
        messages = body.get("messages")
        for message in messages if isinstance(messages, list) else ():
            content = message.get("content") if isinstance(message, dict) else None
            if type(content) is not str and content:
                yield from _within(content)
        if type(body.get("system")) is list:
            yield from _within(body["system"])
    elif operation in ("responses", "embeddings"):
        value = body.get("input")
        if isinstance(value, list | dict) and value and not _plain(value):
            yield from _within(value)
        for field in ("inputs", "images"):
            if field in body:
                yield from _within({field: body[field]})


def _plain(value: Any) -> bool:
    """Whether it is a list of texts or tokens, as for embeddings."""
    return type(value) is list and not any(isinstance(item, dict | list) for item in value)


def _within(content: Any) -> Iterator[str]:
    """Strings in the fields that name what to fetch, at any depth; without recursion, for it may be deep."""
    stack: list[tuple[Any, str]] = [(content, "")]
    while stack:
        value, name = stack.pop()
        if isinstance(value, dict):
            kind = value.get("type")
            if type(kind) is str and kind in _CALLS:
                continue
            for key, item in value.items():
                if type(item) is str:
                    if key in _FIELDS or (key in _LINKS and name in _HOLDERS):
                        yield item
                elif isinstance(item, dict | list):
                    stack.append((item, key))
        elif isinstance(value, list):
            for item in value:
                if type(item) is str:
                    if name in _FIELDS:
                        yield item
                elif isinstance(item, dict | list):
                    stack.append((item, name))

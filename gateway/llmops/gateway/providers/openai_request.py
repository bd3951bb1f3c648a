"""The parts of OpenAI's requests that its relatives share: paths, further headers, and what strict servers refuse."""

from __future__ import annotations

import re
from typing import Any, Final

from llmops.core.errors import ConfigError
from llmops.core.secret import resolve_secret
from llmops.gateway.calls import Fault, Json, Operation
from llmops.gateway.config import ProviderConfig

PATHS: Final[dict[Operation, str]] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "embeddings": "/embeddings",
    "rerank": "/rerank",
}
_OWN_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type"})
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_REFERENCE: Final = re.compile(r"(?:env:[A-Za-z_][A-Za-z0-9_]*|file:\S.*)")
_DEARER_TIERS: Final = ("priority", "fast")
_DEAR_TOOLS: Final = ("web_search", "file_search", "code_interpreter", "image_generation", "shell")
_BODY_EXTENSIONS: Final = ("thinking", "top_k", "cache_control")
_MESSAGE_EXTENSIONS: Final = frozenset({"reasoning_content", "thinking_blocks", "is_error", "cache_control"})


def own_headers(config: ProviderConfig) -> list[tuple[bytes, bytes]]:
    """The content type and the configuration's further headers, their references resolved.

    Raises:
        ConfigError: a header that the transport writes itself, or characters that no header can carry.
    """
    headers = [(b"content-type", b"application/json")]
    for name, value in config.headers.items():
        if name.lower() in _OWN_HEADERS or not _HEADER_NAME.fullmatch(name):
            raise ConfigError(f"the header `{name[:100]}` cannot be set for a provider")
        resolved = resolve_secret(value) if _REFERENCE.fullmatch(value) else value
        if not resolved.isascii() or not resolved.isprintable():
            raise ConfigError(f"the header `{name}` holds characters that no header can carry")
        headers.append((name.lower().encode("ascii"), resolved.encode("ascii")))
    return headers


def streamed(body: Json) -> bool:
    """Whether a stream is asked for. Fault(`bad_request`) for a `stream` that is neither true, false nor null."""
    stream = body.get("stream")
    if stream is None or isinstance(stream, bool):
        return bool(stream)
    raise Fault("bad_request", "`stream` is neither true nor false", 400, param="stream")


def stream_options(body: Json) -> Json:
    options = body.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise Fault("bad_request", "`stream_options` is not an object", 400, param="stream_options")
    return options


def wants_usage(body: Json) -> bool:
    """Whether the caller of a stream asked for the usage event."""
    return stream_options(body).get("include_usage") is True


def refuse_background(body: Json) -> None:
    """A response made in the background costs after its call has ended, where nothing here could book it."""
    if body.get("background"):
        raise Fault(
            "bad_request", "`background` responses are not offered: leave it out, and stream", 400, param="background"
        )


def refuse_unpriced(body: Json) -> None:
    """What OpenAI charges beyond the price of text, for targets whose price the configuration does not state.

    Source: https://platform.openai.com/docs/pricing (priority processing, audio tokens, built-in tools)

    Raises:
        Fault: `bad_request` naming the field.
    """
    modalities, tools = body.get("modalities"), body.get("tools")
    if body.get("service_tier") in _DEARER_TIERS:
        raise _unpriced("service_tier")
    if body.get("audio") or (isinstance(modalities, list) and "audio" in modalities):
        raise _unpriced("audio")
    if body.get("web_search_options") is not None:
        raise _unpriced("web_search_options")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and str(tool.get("type")).startswith(_DEAR_TOOLS):
            raise _unpriced("tools")
    for message in body["messages"] if isinstance(body.get("messages"), list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(
            isinstance(part, dict) and part.get("type") == "input_audio" for part in content
        ):
            raise _unpriced("messages")


def _unpriced(name: str) -> Fault:
    message = f"`{name}` asks for what costs more than text, at a price that nobody stated"
    hint = "leave it out, or state the target's `price` in the gateway's configuration"
    return Fault("bad_request", f"{message} ({hint})", 400, code="unpriced", param=name)


def without_extensions(body: Json) -> Json:
    """The body without what the canonical format adds to OpenAI's, for servers that refuse unknown fields.

    `body` is a copy already; the messages and parts in it are not, and are left as they are.
    """
    for name in _BODY_EXTENSIONS:
        body.pop(name, None)
    for name in ("messages", "tools"):
        if isinstance(body.get(name), list):
            body[name] = [_plain(item) for item in body[name]]
    return body


def _plain(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    if not _MESSAGE_EXTENSIONS.isdisjoint(item):
        item = {name: value for name, value in item.items() if name not in _MESSAGE_EXTENSIONS}
    content, calls = item.get("content"), item.get("tool_calls")
    if isinstance(content, list) and any(isinstance(part, dict) and "cache_control" in part for part in content):
        item = {**item, "content": [_without(part, "cache_control") for part in content]}
    if isinstance(calls, list) and any(isinstance(call, dict) and "extra_content" in call for call in calls):
        item = {**item, "tool_calls": [_without(call, "extra_content") for call in calls]}
    return item


def _without(value: Any, name: str) -> Any:
    return {key: kept for key, kept in value.items() if key != name} if isinstance(value, dict) else value

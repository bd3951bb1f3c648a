"""Finds the URLs that a request asks somebody upstream to fetch: one rule for every dialect and every provider.

The gateway follows none of them; a provider's servers might, and a model server within our own network surely does. The
rule goes by names, at any depth of the body and in any spelling of them: what must be a URL; what may be one or inline
data; a link of a picture, sound, film, file or MCP server; and, where a tool of the provider's own is set up, whatever
is a URL. Texts, schemas, sources that are quoted and what a model asked a tool to do are fetched by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from llmops.gateway.calls import Json, Operation

MAX_URLS: Final = 1000

_FETCHED: Final = frozenset((
    "imageurl", "fileurl", "videourl", "audiourl", "documenturl", "fileuri", "serverurl", "endpointurl",
))  # fmt: skip
"""Names, without case and underscores, of what is a URL and nothing else."""

_INLINE: Final = frozenset((
    "image", "images", "video", "videos", "audio", "audios", "file", "files", "filedata", "inputaudio", "data", "mask",
))  # fmt: skip
"""Names of what is inline data or a URL."""

_HOLDERS: Final = (_FETCHED | _INLINE | {"source", "document", "mcpservers", "inputs"}) - {"data"}
_KINDS: Final = frozenset((
    "url", "image", "image_url", "input_image", "video", "video_url", "input_video", "audio", "audio_url",
    "input_audio", "file", "input_file", "document", "document_url", "media",
))  # fmt: skip
"""Types of parts that are their own holders."""

_LINKS: Final = frozenset(("url", "uri"))  # a link elsewhere is quoted, not fetched
_HOSTS: Final = frozenset(("remotehost", "bootstraphost"))
"""Where vLLM and SGLang, run in two stages, fetch the first one's work from."""

_CALLS: Final = frozenset(
    ("tool_use", "server_tool_use", "mcp_tool_use", "function_call", "custom_tool_call", "mcp_call")
)
"""What a model asked a tool to do: whatever stands there, the provider fetches nothing for it."""

_QUOTED: Final = frozenset((
    "citations", "annotations", "arguments", "parameters", "inputschema", "jsonschema", "schema", "toolcalls",
    "description", "serverdescription", "headers",
))  # fmt: skip
_QUOTED_ABOVE: Final = frozenset(("metadata", "documents", "response_format", "logit_bias"))
"""Of the body itself, where it asks for words: notes, and documents as text."""

_PROVIDERS_OWN: Final = frozenset(("mcp_servers", "search_parameters", "web_search_options", "plugins", "connectors"))
_TEXTS: Final = frozenset(("text", "input_text", "output_text"))
_CALLERS_OWN: Final = (None, "function", "custom")
_URL: Final = re.compile(r"[\x00-\x20]*(?:[A-Za-z][A-Za-z0-9+.-]{0,30}:[/\\]|(?:https?|wss?|ftp|file):)\S*\s*")


def fetched_urls(operation: Operation, body: Json) -> Iterator[str]:
    """Every URL that stands to be fetched. Costs next to nothing for what is a plain string or a list of numbers."""
    quotes = operation not in ("embeddings", "rerank")
    for key, value in body.items():
        if type(value) is str and key != "input":
            yield from _judged(value, _spelled(key), key in _PROVIDERS_OWN)
        elif quotes and key in _QUOTED_ABOVE:
            continue
        elif key == "tools" and isinstance(value, list):
            for tool in value:
                own = isinstance(tool, dict) and tool.get("type") not in _CALLERS_OWN
                yield from _within(tool, "tools", own)
        elif not quotes and key == "input":
            yield from _within(value, _of_inputs(body), False)
        else:
            yield from _within(value, _spelled(key), key in _PROVIDERS_OWN)


def _of_inputs(body: Json) -> str:
    """What a server that embeds more than text takes `input` for: Infinity is told by `modality`."""
    return "images" if body.get("modality") not in (None, "text") else "inputs"


def _spelled(key: str) -> str:
    """A name as the most generous reader takes it: Go's finds fields in any case."""
    return (key.lower() if key.isascii() else key.casefold()).replace("_", "")


def _within(content: Any, name: str, own: bool) -> Iterator[str]:
    """What is to be fetched, at any depth; without recursion, for it may be deep. `own`: a provider's own tool."""
    stack: list[tuple[Any, str]] = [(content, name)]
    while stack:
        value, name = stack.pop()
        if type(value) is str:
            yield from _judged(value, name, own)
        elif isinstance(value, list):
            stack += [(item, name) for item in value if isinstance(item, str | dict | list)]
        elif isinstance(value, dict):
            kind = value.get("type")
            if type(kind) is not str:
                kind = ""
            if kind in _CALLS:
                continue
            holds = name in _HOLDERS or kind in _KINDS
            for key, item in value.items():
                spelled = _spelled(key)
                if spelled in _QUOTED or (spelled == "data" and kind in _TEXTS):
                    continue
                if type(item) is str:
                    yield from _judged(item, "imageurl" if holds and spelled in _LINKS else spelled, own)
                elif isinstance(item, dict | list):
                    stack.append((item, spelled))


def _judged(value: str, name: str, own: bool) -> Iterator[str]:
    """The URL in a string of this name, if it is one to be fetched."""
    if name in _FETCHED or ((own or name in _INLINE) and _URL.fullmatch(value)):
        yield value
    elif name in _HOSTS:
        yield f"http://{value}/"

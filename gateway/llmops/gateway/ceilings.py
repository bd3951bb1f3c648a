"""The most tokens a request can cost, known before it is sent: what is reserved of a budget, and settled afterwards.

Bounds, not guesses: a bound too high makes a request wait for money that it will not need; one too low would let a
budget leak. Knows request bodies in the formats of callers; knows no price and no target but its maximum of output.
"""

from __future__ import annotations

from typing import Any, Final

from llmops.gateway.calls import Fault, Json, Operation
from llmops.gateway.config import TargetConfig

IMAGE_TOKENS: Final = 16_384
"""Most tokens of one picture: Qwen2-VL's default `max_pixels` (12,845,056 / 28^2), above OpenAI's `original` detail
(10,000 patches x 1.2), Claude's 4,784 and Gemini's tiles of 258.

Source: https://huggingface.co/Qwen/Qwen2-VL-7B-Instruct/blob/main/preprocessor_config.json,
https://platform.openai.com/docs/guides/images-vision#calculating-costs
"""

GPT_4O_MINI_IMAGE_TOKENS: Final = 48_169
"""gpt-4o-mini counts 2,833 + 5,667 tokens for each of at most 8 tiles, so that pictures cost what gpt-4o's cost."""

STORED_TOKENS: Final = 1_050_000
"""Taken where the request only names what it is long by (a stored conversation, a file, a built-in tool's findings):
the largest context window on offer. A target's `context_tokens` bounds it lower."""

TEMPLATE_TOKENS: Final = 128
"""What a server's chat template may add in front (dates, a default system prompt, role marks)."""

TOOLS_TOKENS: Final = 1_024
"""What a provider adds to explain the use of tools (Claude: 346 to 804), or this gateway for a structured answer."""

_LIMITS: Final[dict[Operation, tuple[str, ...]]] = {
    "chat": ("max_completion_tokens", "max_tokens", "max_new_tokens", "n_predict"),
    "completions": ("max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
_CHOICES: Final = ("n", "best_of", "n_cmpl")
_STORED_NAMES: Final = (
    "previous_response_id",
    "conversation",
    "prompt_id",
    "web_search_options",
    "container",
    "mcp_servers",
)
_OWN_TOOLS: Final = frozenset({"function", "custom"})


def asked_output(operation: Operation, body: Json, ceiling: int) -> int:
    """Output tokens of one answer: the least of what the caller names and `ceiling`.

    Raises:
        Fault: `bad_request` where the maximum is no whole number, or negative.
    """
    for name in _LIMITS.get(operation, ()):
        if name not in body:
            continue
        value = body[name]
        if value is None or (name == "n_predict" and value == -1):
            continue
        if type(value) is not int or value < 0:
            raise Fault("bad_request", f"`{name}` is not a whole number from 0", 400, param=name)
        ceiling = min(ceiling, value)
    return ceiling


def choice_count(operation: Operation, body: Json) -> int:
    """How many answers are generated at most, the ones of `best_of` that are thrown away too."""
    if operation in ("embeddings", "rerank"):
        return 1
    count = 1
    for name in _CHOICES:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Fault("bad_request", f"`{name}` is not a whole number from 1", 400, param=name)
        count = max(count, value)
    return count * _prompts(body.get("prompt")) if operation == "completions" else count


def output_ceiling(operation: Operation, body: Json, target: TargetConfig) -> int:
    """The most output tokens that this request can be charged for at `target`."""
    if operation in ("embeddings", "rerank"):
        return 0
    count = choice_count(operation, body)
    one = asked_output(operation, body, target.max_output_tokens)
    if "prediction" in body:  # rejected tokens of a prediction are charged as output
        one += _text_bytes(body["prediction"])
    return count * one


def input_ceiling(operation: Operation, body: Json, raw_len: int, model: str = "") -> int:
    """The most input tokens that a body of `raw_len` bytes can be charged for.

    A token has at least one byte of text. A picture's bytes are not its tokens: they are taken out, and a constant is
    put in. What the body does not hold but only names costs up to a whole context.
    """
    tokens = raw_len + TEMPLATE_TOKENS
    if body.get("tools") or body.get("functions") or body.get("response_format") or body.get("text"):
        tokens += TOOLS_TOKENS
        if _has_built_in(body.get("tools")):
            tokens += STORED_TOKENS
    if any(body.get(name) for name in _STORED_NAMES) or (operation == "responses" and body.get("prompt")):
        tokens += STORED_TOKENS
    image = GPT_4O_MINI_IMAGE_TOKENS if "4o-mini" in model else IMAGE_TOKENS
    for content in _contents(operation, body):
        for part in content:
            tokens += _part_tokens(part, image)
    return max(tokens, 0) + (_queries(body) if operation == "rerank" else 0)


def _queries(body: Json) -> int:
    """Rerankers read the query again with each document."""
    documents, query = body.get("documents"), body.get("query")
    if not isinstance(documents, list) or not isinstance(query, str):
        return 0
    return len(documents) * (len(query.encode("utf-8", "replace")) + TEMPLATE_TOKENS)


def _prompts(prompt: Any) -> int:
    """Completions take one prompt (text or token ids) or many."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return len(prompt)
    return 1


def _contents(operation: Operation, body: Json) -> list[list[Any]]:
    """The lists of content parts; plain text is counted by its bytes already."""
    found = []
    messages = body.get("input" if operation == "responses" else "messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        for name in ("content", "output"):
            content = message.get(name)
            if isinstance(content, list):
                found.append(content)
        if message.get("type") in ("input_image", "input_file", "item_reference", "computer_call_output"):
            found.append([message])
    return found


def _part_tokens(part: Any, image: int) -> int:
    if not isinstance(part, dict):
        return 0
    kind = part.get("type")
    if kind in ("image_url", "input_image", "image", "computer_screenshot", "computer_call_output"):
        return image - _inline_bytes(part)
    if kind in ("file", "input_file", "document", "item_reference", "search_result"):
        source = part.get("source")
        if isinstance(source, dict) and source.get("type") in ("text", "content"):
            return 0
        return STORED_TOKENS - _inline_bytes(part)
    if kind == "tool_result" and isinstance(part.get("content"), list):
        return sum(_part_tokens(inner, image) for inner in part["content"])
    return 0


def _inline_bytes(part: Json) -> int:
    """Length of the picture itself within the body, as base64; a little less than it has, never more."""
    found = 0
    for name in ("image_url", "source", "file", "image", "output", "file_data"):
        value = part.get(name)
        if isinstance(value, dict):
            value = next((value[key] for key in ("url", "data", "file_data", "image_url") if key in value), None)
        if isinstance(value, str) and (value.startswith("data:") or name in ("source", "file", "file_data")):
            found += len(value)
    return found


def _text_bytes(prediction: Any) -> int:
    content = prediction.get("content") if isinstance(prediction, dict) else None
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace"))
    parts = content if isinstance(content, list) else ()
    return sum(
        len(part["text"].encode("utf-8", "replace"))
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def _has_built_in(tools: Any) -> bool:
    """Whether a tool runs at the provider, and brings its findings into the context."""
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and isinstance(tool.get("type"), str) and tool["type"] not in _OWN_TOOLS
        for tool in tools
    )

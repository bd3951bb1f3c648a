"""OpenAI's text completions, for upstreams that only chat: one prompt becomes one user message.

What a chat model cannot do is refused: token ids, several prompts, a suffix, an echo. Knows no provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmops.gateway.calls import Fault, Json, Operation, Writer
from llmops.gateway.dialects.chat import DONE, asks_usage, flag
from llmops.gateway.dialects.openai_errors import error_body, error_json
from llmops.gateway.reading import CALLER, UPSTREAM, dumped

_OWN = frozenset({"prompt", "suffix", "echo", "best_of", "logprobs"})


class Completions:
    """`/v1/completions`."""

    operation: Operation = "completions"

    def to_chat(self, body: Json) -> Json:
        flag(body, "stream")
        CALLER.object(body.get("stream_options") or {}, "stream_options")
        _refuse(body)
        request = {name: value for name, value in body.items() if name not in _OWN}
        request["messages"] = [{"role": "user", "content": _prompt(body.get("prompt"))}]
        if (count := body.get("logprobs")) is not None:
            request["logprobs"] = True
            request["top_logprobs"] = CALLER.count(count, "logprobs")
        return request

    def from_chat(self, reply: Json, request: Json) -> Json:
        choices = []
        for number, choice in enumerate(UPSTREAM.objects(reply.get("choices"), "choices")):
            message = UPSTREAM.object(choice.get("message"), f"choices.{number}.message")
            choices.append(_choice(choice, message, number))
        return {**_outline(reply), "choices": choices, "usage": reply.get("usage")}

    def writer(self, request: Json) -> Writer:
        return CompletionsWriter(wants_usage=asks_usage(request))

    def error(self, fault: Fault, request_id: str) -> bytes:
        return error_body(fault, request_id)


class CompletionsWriter:
    """Chat chunks as completion events; chunks without text say nothing here, unless they end a choice."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage

    def feed(self, chunks: Sequence[Json]) -> bytes:
        return b"".join([self._events(chunk) for chunk in chunks])

    def end(self) -> bytes:
        return DONE

    def fault(self, fault: Fault) -> bytes:
        return b"data: " + dumped({"error": error_json(fault)}) + b"\n\n"

    def _events(self, chunk: Json) -> bytes:
        found = UPSTREAM.objects(chunk.get("choices"), "choices")
        choices = [
            _choice(choice, UPSTREAM.object(choice.get("delta") or {}, f"choices.{number}.delta"), number)
            for number, choice in enumerate(found)
        ]
        spoken = [choice for choice in choices if choice["text"] or choice["finish_reason"]]
        usage = chunk.get("usage") if self._wants_usage and not found else None
        if not spoken and not usage:
            return b""
        event = {**_outline(chunk), "choices": spoken}
        if usage:
            event["usage"] = usage
        return b"data: " + dumped(event) + b"\n\n"


def _refuse(body: Json) -> None:
    if body.get("suffix"):
        raise CALLER.fault("suffix", "cannot be given to a chat model: leave it out")
    if flag(body, "echo"):
        raise CALLER.fault("echo", "is not possible with a chat model: leave it out")
    best, n = CALLER.count(body.get("best_of"), "best_of"), CALLER.count(body.get("n"), "n")
    if best > max(n, 1):
        raise CALLER.fault("best_of", "is not possible with a chat model: leave it out")


def _prompt(prompt: Any) -> str:
    """The one text; a list of one text is the same."""
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    raise CALLER.fault("prompt", "must be one text: this model takes neither token ids nor several prompts at once")


def _outline(reply: Json) -> Json:
    id_ = reply.get("id")
    return {
        "id": id_.replace("chatcmpl-", "cmpl-", 1) if isinstance(id_, str) else "cmpl-",
        "object": "text_completion",
        "created": reply.get("created"),
        "model": reply.get("model"),
    }


def _choice(choice: Json, message: Json, number: int) -> Json:
    content = message.get("content") or message.get("refusal")
    return {
        "index": choice.get("index", number),
        "text": content if isinstance(content, str) else "",
        "logprobs": _logprobs(choice.get("logprobs")),
        "finish_reason": choice.get("finish_reason"),
    }


def _logprobs(logprobs: Any) -> Json | None:
    """Chat's list of tokens in the parallel lists of completions."""
    if not isinstance(logprobs, dict) or logprobs.get("content") is None:
        return None
    tokens = UPSTREAM.objects(logprobs["content"], "logprobs.content")
    offsets, position = [], 0
    for token in tokens:
        offsets.append(position)
        position += len(UPSTREAM.text(token.get("token"), "logprobs.content.token"))
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [
            {
                str(top.get("token")): top.get("logprob")
                for top in UPSTREAM.objects(token.get("top_logprobs"), "logprobs.content.top_logprobs")
            }
            for token in tokens
        ],
        "text_offset": offsets,
    }

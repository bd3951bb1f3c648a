"""Request bodies as programs send them, and answers in the shape OpenAI's clients read.

An answer carries its citations as `citations` in the message (in a stream: in the delta right after their marker), and
what serving knows about it under `llmops`. Nothing here runs a chain.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmops.core.chain import Citation, Delta, Message, Step
from llmops.core.errors import LlmopsError, TooLargeError, UserError
from llmops.serving.config import LimitsConfig
from llmops.serving.exchange import Exchange
from llmops.serving.record import citation_json, encode, step_json


class Part(BaseModel):
    """A piece of a message; only text is understood."""

    model_config = ConfigDict(extra="ignore")
    type: str
    text: str = ""


class MessageIn(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Extension(BaseModel):
    """What a request may say beyond OpenAI's format, under `llmops`."""

    model_config = ConfigDict(extra="forbid")
    session_id: str | None = Field(None, max_length=128, description="Conversation the question belongs to")
    filters: dict[str, str | int | float | bool | list[str] | dict[Literal["from", "to"], str | int | float]] = Field(
        default_factory=dict,
        description="Facts that documents must have to be searched: a value, any of several, or a range",
    )


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`. OpenAI's parameters that change no answer here are accepted and ignored."""

    model_config = ConfigDict(extra="allow")
    model: str = Field(description="Name of an endpoint, see /v1/models")
    messages: list[MessageIn] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, gt=0)
    max_completion_tokens: int | None = Field(None, gt=0)
    llmops: Extension = Extension()

    def refuse_unsupported(self) -> None:
        """Say so where an answer would silently differ from what was asked for."""
        extra = self.model_extra or {}
        for name in ("tools", "functions"):
            if extra.get(name):
                raise UserError(f"`{name}` is not supported by this endpoint", where=name, code="unsupported")
        if self.n != 1:
            raise UserError("an endpoint gives one answer a request", where="n", code="unsupported")

    def conversation(self, limits: LimitsConfig) -> list[Message]:
        """The messages as a chain takes them.

        Raises:
            UserError: the last is no question, or a part is no text.
            TooLargeError: too many messages, or one too long.
        """
        if len(self.messages) > limits.messages:
            raise TooLargeError(
                f"the conversation has more than {limits.messages} messages", where="messages", hint="begin a new one"
            )
        messages = [_message(message, f"messages.{number}") for number, message in enumerate(self.messages)]
        if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
            raise UserError("the last message must be the user's question", where="messages", code="no_question")
        for number, message in enumerate(messages):
            if message["role"] == "user" and len(message["content"]) > limits.question_chars:
                raise TooLargeError(
                    f"the question has {len(message['content'])} characters; {limits.question_chars} are allowed",
                    where=f"messages.{number}.content",
                    hint="shorten it: put long documents into the index instead",
                    code="question_too_long",
                )
        return messages

    def settings(self) -> dict[str, Any]:
        """What this request lays over the chain's own settings."""
        asked = {
            "temperature": self.temperature,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "filters": self.llmops.filters or None,
        }
        return {name: value for name, value in asked.items() if value is not None}


class FeedbackRequest(BaseModel):
    """`POST /v1/feedback`: a thumb for one answer of the requester's own."""

    model_config = ConfigDict(extra="forbid")
    feedback_id: str = Field(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="UUID made by the client: a repeat changes nothing",
    )
    request_id: str = Field(max_length=64)
    value: Literal["up", "down"]
    reason: str | None = Field(None, max_length=64, pattern=r"^[a-z][a-z0-9_]*$")
    comment: str | None = Field(None, description="Free text")
    talk_to_a_person: bool = False


def served(exchange: Exchange) -> dict[str, Any]:
    """What is known about an answer before it is there."""
    question = exchange.question
    return {
        "request_id": question.context.request_id,
        "endpoint": question.endpoint,
        "asset": str(question.loaded.ref.name),
        "version": question.loaded.ref.version,
        "alias": question.loaded.alias,
        "variant": question.context.variant,
    }


def concluded(exchange: Exchange) -> dict[str, Any]:
    """What is known about an answer at its end."""
    outcome, done = exchange.outcome, exchange.outcome.done
    return {
        **served(exchange),
        "generation": outcome.generation,
        "index_seq": outcome.index_seq,
        "refused": done.refused if done else False,
        "quoted": done.quoted if done else False,
    }


def completion(exchange: Exchange) -> dict[str, Any]:
    """A whole answer as a `chat.completion`."""
    outcome = exchange.outcome
    message = {
        "role": "assistant",
        "content": outcome.answer,
        "refusal": None,
        "citations": [citation_json(citation) for citation in outcome.citations],
        "steps": [step_json(step) for step in outcome.steps],
    }
    return {
        **_head(exchange, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": _finish_reason(exchange), "logprobs": None}],
        "usage": usage(exchange),
        "llmops": concluded(exchange),
    }


class Chunks:
    """The server-sent events of one streamed answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._head = _head(exchange, "chat.completion.chunk")
        self._cited = 0

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}, llmops=served(self._exchange))

    def delta(self, event: Delta) -> bytes:
        return self._chunk({"content": event.text})

    def citation(self, event: Citation) -> bytes:
        """One citation; `index` is its place, by which OpenAI's clients put lists together from their pieces."""
        self._cited += 1
        return self._chunk({"citations": [{"index": self._cited - 1, **citation_json(event)}]})

    def step(self, event: Step) -> bytes:
        """One search on the way to the answer."""
        return self._chunk({"steps": [{"index": event.number - 1, **step_json(event)}]})

    def closing(self, *, include_usage: bool) -> bytes:
        finish = self._chunk(
            {}, finish_reason=_finish_reason(self._exchange), llmops=concluded(self._exchange),
            citations=[citation_json(citation) for citation in self._exchange.outcome.citations],
        )  # fmt: skip
        tail = sse({**self._head, "choices": [], "usage": usage(self._exchange)}) if include_usage else b""
        return finish + tail + DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **extension: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return sse({**self._head, "choices": [choice], **extension})


DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def sse(value: dict[str, Any]) -> bytes:
    """One server-sent event. JSON holds no raw line break, so a document's text can't forge an event."""
    return b"data: " + encode(value) + b"\n\n"


def failure(error: LlmopsError, exchange: Exchange) -> bytes:
    """An error in the middle of a stream, in the shape OpenAI's clients raise on; then the end."""
    return sse({**error.as_json(), "llmops": served(exchange)}) + DONE


def usage(exchange: Exchange) -> dict[str, int]:
    done = exchange.outcome.done
    given = (done.usage.input_tokens, done.usage.output_tokens) if done else (0, 0)
    return {"prompt_tokens": given[0], "completion_tokens": given[1], "total_tokens": sum(given)}


def _head(exchange: Exchange, kind: str) -> dict[str, Any]:
    question = exchange.question
    return {
        "id": f"chatcmpl-{question.context.request_id}",
        "object": kind,
        "created": int(question.asked_at),
        "model": question.endpoint,
    }


def _finish_reason(exchange: Exchange) -> str:
    done = exchange.outcome.done
    return done.finish_reason if done else "stop"


def _message(message: MessageIn, where: str) -> Message:
    role: Literal["system", "user", "assistant"] = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    for number, part in enumerate(message.content):
        if part.type not in ("text", "input_text"):
            raise UserError(
                f"a message part of type `{part.type[:40]}` is not understood",
                where=f"{where}.content.{number}", hint="send text", code="unsupported",
            )  # fmt: skip
    return {"role": role, "content": "".join(part.text for part in message.content)}

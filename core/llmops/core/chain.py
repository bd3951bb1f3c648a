"""What serving asks of a chain, and what a chain may count on: the contract between rag and every door.

A chain is any object with `stream(messages, context)` giving events, and `passage(...)` to open what it cited. Ours are
packaged as MLflow models; a foreign pyfunc is adapted to this shape. Nothing here knows HTTP or a model library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, Self, TypedDict

from pydantic import BaseModel, ConfigDict, ValidationError

from llmops.core.errors import UserError, did_you_mean
from llmops.core.identity import LOCAL, Principal
from llmops.core.ids import new_id


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


class RequestSettings(BaseModel):
    """What one request may lay over a chain's own settings; each chain says which by fields of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """Check the settings of a request.

        Raises:
            UserError: names the first that is unknown or out of range, never its value.
        """
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(map(str, first["loc"]))
            unknown = first["type"] == "extra_forbidden"
            raise UserError(
                f"unknown setting `{name}`" if unknown else f"setting `{name}`: {first['msg']}",
                where=name,
                hint=did_you_mean(name, cls.model_fields) if unknown else None,
                code="invalid_setting",
            ) from None


class Cancelled(Exception):
    """Raised inside a chain once its reader has closed the stream."""


class CancelToken:
    """Lets a reader in one thread stop a chain in another, also while it waits for its upstream.

    `cancel` runs every callback once, in the caller's thread; what blocks on a socket registers its shutdown here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Register `callback`; it runs at once where the token is cancelled already."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def check(self) -> None:
        """Raise `Cancelled` where the reader is gone."""
        if self._cancelled:
            raise Cancelled


@dataclass(frozen=True)
class ChainContext:
    """One exchange: who asks, under which ids, with which settings laid over the chain's own.

    `invocation_id` is that of the hop that asks the chain; calls made on its behalf name it as their parent.
    `traceparent` is the step of a trace that the chain's own steps belong under.
    """

    request_id: str = field(default_factory=new_id)
    invocation_id: str = field(default_factory=new_id)
    principal: Principal = LOCAL
    session_id: str | None = None
    variant: str = "champion"
    settings: dict[str, Any] = field(default_factory=dict)
    traceparent: str | None = None
    cancel: CancelToken = field(default_factory=CancelToken, compare=False)


@dataclass(frozen=True)
class PassageRef:
    """A span of a document: `start` and `end` are character offsets into its parsed text, `page` counts from 1.

    `index` names the index that it was found in, where a chain asks several.
    """

    uri: str
    start: int
    end: int
    text: str
    page: int | None = None
    title: str | None = None
    score: float | None = None
    index: str | None = None


@dataclass(frozen=True)
class Step:
    """One search on the way to an answer: `query` is what was searched for, `number` counts from 1.

    `filters` are those that were read out of the question, where there are any.
    """

    number: int
    query: str
    passages: int
    filters: dict[str, Any] | None = field(default=None, compare=False)
    type: Literal["step"] = "step"


@dataclass(frozen=True)
class Retrieval:
    """The passages an answer may draw on, best first; `index_seq` is the index refresh they came from."""

    passages: tuple[PassageRef, ...]
    generation: str
    index_seq: int
    type: Literal["retrieval"] = "retrieval"


@dataclass(frozen=True)
class Delta:
    """The next piece of the answer's Markdown text. Citations stand in it as `[1]`, `[2]`, ..."""

    text: str
    type: Literal["delta"] = "delta"


@dataclass(frozen=True)
class Citation:
    """Marker `[number]` of the answer: the cited span, checked to stand in the document, word for word."""

    number: int
    uri: str
    start: int
    end: int
    text: str
    page: int | None = None
    title: str | None = None
    index: str | None = None
    type: Literal["citation"] = "citation"


@dataclass(frozen=True)
class Usage:
    """What an answer took. `cost_usd` is told by whoever pays for it; None: not known."""

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    cost_usd: float | None = None


@dataclass(frozen=True)
class Done:
    """The end of an answer. `refused` says that the passages do not answer the question."""

    usage: Usage
    refused: bool
    generation: str
    index_seq: int
    quoted: bool = False
    finish_reason: Literal["stop", "length"] = "stop"
    type: Literal["done"] = "done"


Event = Step | Retrieval | Delta | Citation | Done


def event_json(event: Event) -> dict[str, Any]:
    """An event as plain JSON values, as it crosses a process or wire."""
    return asdict(event)


@dataclass(frozen=True)
class PassageView:
    """A cited passage where it stands: the page (or the text around the span), offsets relative to `text`."""

    uri: str
    title: str | None
    page: int | None
    text: str
    highlight_start: int
    highlight_end: int


class Chain(Protocol):
    """A servable that answers in a conversation."""

    @property
    def version_info(self) -> dict[str, Any]:
        """What goes into the log row: prompt_version, index_version, generation, model."""
        ...

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        """Answer the last user message.

        Gives `Step`s where it may search more than once, one `Retrieval`, then `Delta`s, each `Citation` right after
        the delta that holds its marker, then `Done`.

        Raises:
            UserError: the question is empty or too long.
            UpstreamError, RateLimitedError: the LLM failed; deltas given before stay valid.
            Cancelled: `context.cancel` was called; the upstream call is stopped.
        """
        ...

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        """Open a cited passage.

        Raises:
            NotFoundError: no such document for this principal; a private one is not told apart from a missing one.
        """
        ...

    def close(self) -> None: ...

"""The words in which the rooms of the gateway speak to each other: operations, usage, faults, and who does what.

Protocols and small records only. The transport (`http`) knows bytes and time; providers and dialects are pure functions
of bytes; `engine` joins them. JSON bodies travel as plain dictionaries in OpenAI's chat format, the canonical one,
unless an upstream speaks the caller's own format, in which case the bytes are passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from llmops.gateway.config import ProviderConfig, TargetConfig

Operation = Literal["chat", "completions", "responses", "messages", "embeddings", "rerank"]
Headers = Sequence[tuple[bytes, bytes]]
Json = dict[str, Any]

PATHS: Final[Mapping[str, Operation]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
}


@dataclass(slots=True, init=False)
class Usage:
    """What a call used, in tokens. `input_tokens` counts cached ones too, `output_tokens` the reasoning too.

    Its `__init__` is written out, as of the other records that every request makes: compiled, it takes a tenth of what
    a dataclass's own takes.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    searches: int = 0
    estimated: bool = False
    cache_write_long_tokens: int = 0
    """Of `cache_write_tokens`, those written for longer than the provider's default (Anthropic's 1 h)."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        searches: int = 0,
        estimated: bool = False,
        cache_write_long_tokens: int = 0,
    ) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cached_tokens = cached_tokens
        self.cache_write_tokens = cache_write_tokens
        self.reasoning_tokens = reasoning_tokens
        self.searches = searches
        self.estimated = estimated
        self.cache_write_long_tokens = cache_write_long_tokens


FaultKind = Literal[
    "refused",  # no connection
    "tls",  # the upstream did not prove who it is
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "total_timeout",
    "cut",  # the reply ended before its end
    "invalid",  # not HTTP, not JSON, not the format
    "rate_limited",  # 429
    "overloaded",  # 503, 529
    "server_error",  # other 5xx
    "unauthenticated",  # 401, 403: our key is wrong there
    "bad_request",  # 400, 404, 413, 422: the caller's own mistake, told to the caller
    "context_too_long",
    "content_filtered",
    "cancelled",  # by us
]


class Fault(Exception):
    """Why an upstream gave no good reply. `message` is safe to tell the caller: it holds no key and no secret URL."""

    __slots__ = ("code", "kind", "message", "param", "retry_after_s", "status")

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        status: int = 502,
        retry_after_s: float | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        self.kind: FaultKind = kind
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.code = code
        self.param = param

    @property
    def retryable(self) -> bool:
        """Whether asking again (here or elsewhere) can help."""
        return self.kind not in ("bad_request", "content_filtered", "cancelled")


@dataclass(slots=True, init=False)
class UpstreamRequest:
    """What goes to a provider. `path` holds the query and stands below the origin of the provider's URL.

    Not frozen: that would cost a microsecond a request. Nobody changes it.
    """

    path: str
    headers: Headers
    body: bytes
    method: str = "POST"
    output_tokens: int | None = None
    """The maximum of output tokens that one answer may have, where it stands in the body."""

    def __init__(
        self, path: str, headers: Headers, body: bytes, method: str = "POST", output_tokens: int | None = None
    ) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.method = method
        self.output_tokens = output_tokens


@dataclass(slots=True, init=False)
class Reply:
    """A whole answer, in the format of the operation that was asked of the provider."""

    body: bytes
    usage: Usage | None
    model: str | None = None
    finish: str | None = None

    def __init__(self, body: bytes, usage: Usage | None, model: str | None = None, finish: str | None = None) -> None:
        self.body = body
        self.usage = usage
        self.model = model
        self.finish = finish


class StreamState(Protocol):
    """What is known of a streamed reply so far."""

    usage: Usage | None
    model: str | None
    finished: bool
    """The provider said that this is the end; a body that ends before was cut."""

    fault: Fault | None
    """An error told within the stream."""

    @property
    def received(self) -> int:
        """Output tokens received so far, counted here: for a stream cut before its usage arrived."""


class Relay(StreamState, Protocol):
    """Passes on a stream in the caller's own format, and reads the usage on the way."""

    def feed(self, data: bytes) -> bytes:
        """What goes to the caller now: whole events only (a usage event nobody asked for is left out)."""


class Reader(StreamState, Protocol):
    """Turns a provider's stream into OpenAI chat chunks."""

    def feed(self, data: bytes) -> list[Json]:
        """`chat.completion.chunk` objects; the last one (empty `choices`) holds `usage`."""


class Provider(Protocol):
    """Speaks one provider's API. Pure: no input or output, no clock; one instance serves all requests."""

    native: frozenset[Operation]
    """Operations the upstream takes as the caller sends them; all else goes through the canonical chat format."""

    def __init__(self, config: ProviderConfig, api_key: str | None) -> None: ...

    def build(self, operation: Operation, body: Json, target: TargetConfig) -> UpstreamRequest:
        """The request for a native operation, or for `chat`, `embeddings` (OpenAI's format), `rerank` (Cohere's).

        `body` is the caller's (or the canonical) body and is not changed. Puts in the target's model, the enforced
        maximum of output tokens, and asks a stream for its usage.

        Raises:
            Fault: `bad_request` where the provider cannot do what is asked (say what, and what to do).
        """

    def reply(self, operation: Operation, body: bytes) -> Reply:
        """Read a whole 200 reply. Raises Fault(`invalid`)."""

    def fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        """Read an error reply; Retry-After in seconds or as a date."""

    def relay(self, operation: Operation, body: Json) -> Relay:
        """For a stream of a native operation."""

    def reader(self, body: Json) -> Reader:
        """For a stream of `chat` where `chat` is not native."""


class Writer(Protocol):
    """Turns chat chunks into the caller's stream format."""

    def feed(self, chunks: Sequence[Json]) -> bytes: ...

    def end(self) -> bytes:
        """The last bytes of a good stream (`data: [DONE]`, `message_stop`)."""

    def fault(self, fault: Fault) -> bytes:
        """An error event within the stream, in the caller's format."""


class Dialect(Protocol):
    """One caller's API: how it is turned into canonical chat, and back."""

    operation: Operation

    def to_chat(self, body: Json) -> Json:
        """Raises Fault(`bad_request`, param=...) for what cannot be read or said in chat."""

    def from_chat(self, reply: Json, request: Json) -> Json: ...

    def writer(self, request: Json) -> Writer: ...

    def error(self, fault: Fault, request_id: str) -> bytes:
        """The body of an error reply in the caller's format."""


# --- transport -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """One whole, checked HTTP request. Header names are lower-case; a repeated header is joined by commas.

    Good until it is answered: the connection's next request, if its head is the same, is this object with another body.
    """

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes
    caller: Any = None
    """What the handler has found out from the head alone, kept for the next request with it."""


class Responder(Protocol):
    """The way back to one caller. Exactly one `send`, or `start` - `write`* - `end` | `abort`."""

    on_gone: Callable[[], None] | None
    """Called once when the caller leaves before the end."""

    on_drain: Callable[[], None] | None
    """Called when the caller has taken enough for more to be written."""

    @property
    def full(self) -> bool:
        """Whether the caller is too slow: stop reading upstream until `on_drain`."""

    def send(self, status: int, headers: Headers, body: bytes, standing: Headers = ()) -> None:
        """The whole reply. `standing` headers are those of many replies: one tuple is checked and laid out once."""

    def start(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def abort(self) -> None:
        """Cut the connection: the caller sees that the reply is not whole."""


Handler = Callable[[Request, Responder], None]


class Listener(Protocol):
    """Hears of one upstream call: `on_head`, `on_data`*, `on_end` or `on_fault`; or `on_reply` or `on_fault` alone."""

    def on_reply(self, status: int, headers: Headers, body: bytes) -> None:
        """A reply that came whole, at once: head, data and end in one."""

    def on_head(self, status: int, headers: Headers) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_fault(self, fault: Fault) -> None: ...


class UpstreamCall(Protocol):
    """One call under way. After `cancel` the listener hears nothing more."""

    @property
    def sent(self) -> bool:
        """Whether any byte of the request left: if not, the call cannot have cost anything."""

    def cancel(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Pool(Protocol):
    """Connections to one provider. A kept connection that proves dead before its first reply byte is replaced once.

    A listener hears nothing before `call` has returned.
    """

    def call(
        self, request: UpstreamRequest, listener: Listener, *, first_byte_s: float, idle_s: float
    ) -> UpstreamCall: ...

    def close(self) -> None: ...


# --- who may, and how much -------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class KeyPolicy:
    """A virtual key as workers know it. `routes` empty: every route."""

    key_id: str
    secret_sha256: str
    name: str
    groups: frozenset[str]
    scopes: frozenset[str]
    expires_at: float | None
    team: str | None
    routes: frozenset[str]
    tags: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)  # fields of LimitsConfig that are set
    budgets: tuple[tuple[int, str], ...] = ()  # (nano-dollars, period)


@dataclass(slots=True, frozen=True)
class Meter:
    """One ceiling. `subject` says whose: `key:ID`, `team:NAME`, `user:TEAM:NAME`, `route:NAME`."""

    subject: str
    what: Literal["requests", "tokens", "concurrent", "usd"]
    ceiling: int  # requests, tokens, requests under way, nano-dollars
    period: str = "minute"  # for usd: hour, day, week, month, total

    @property
    def id(self) -> str:
        return f"{self.subject}/{self.what}/{self.period}"


class Reservation(Protocol):
    """What a request holds of its meters while it is under way. Settled exactly once."""

    def settle(self, nano_usd: int, tokens: int) -> None:
        """The call was made and used this much; booked whole, even past what was reserved."""

    def release(self) -> None:
        """Nothing was used: no upstream was asked. The request still counts as a request."""


class Refused(Exception):
    """A ceiling is reached. `retry_after_s` is when it may be worth asking again; None: not in this period."""

    __slots__ = ("message", "meter", "retry_after_s")

    def __init__(self, meter: Meter, retry_after_s: float | None, message: str) -> None:
        self.meter = meter
        self.retry_after_s = retry_after_s
        self.message = message


class Allowances(Protocol):
    """This worker's share of all ceilings."""

    def try_reserve(self, meters: Sequence[Meter], nano_usd: int, tokens: int) -> Reservation | None:
        """From what this worker holds already, at once; None where the shared store must be asked. Raises Refused."""

    async def reserve(self, meters: Sequence[Meter], nano_usd: int, tokens: int) -> Reservation:
        """Raises Refused, or UnavailableError while the store is gone and the configuration says to refuse."""

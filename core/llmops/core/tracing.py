"""What a request does and how long each step takes, as spans; nothing at all where tracing is off.

Every part opens spans through this module. Off, a span is one shared object whose methods do nothing, and no telemetry
library is imported; on, `tracing_otel` makes them. Attributes follow OpenTelemetry's conventions for generative AI;
what was asked and answered goes into a span only where the configuration says so. It knows no exporter.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmops.core.secret import check_reference

TRACEPARENT_HEADER = "traceparent"
Kind = Literal["internal", "client", "server"]

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TracingConfig(BaseModel):
    """Where spans go. Off by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exporter: Literal["off", "otlp", "mlflow", "file", "console"] = Field(
        "off", description="A collector (OTLP over HTTP), an MLflow server, JSON lines in a file, or on stderr"
    )
    url: str | None = Field(None, description="Of the collector, or of the MLflow server")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with each batch; values by reference")
    experiment: str = Field("0", pattern=r"^[0-9]+$", description="Id of the MLflow experiment that traces belong to")
    path: str = Field("traces.jsonl", description="File of the exporter `file`")
    content: bool = Field(False, description="Put questions, passages and answers into spans: they are private")
    sample: float = Field(1.0, ge=0, le=1, description="Share of the traces kept, where the caller has not decided it")
    queue: int = Field(4096, ge=64, le=1_000_000, description="Spans that wait at most; older ones go when it is full")

    @field_validator("exporter", mode="before")
    @classmethod
    def _yaml_word(cls, value: object) -> object:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value

    @field_validator("headers")
    @classmethod
    def _by_reference(cls, value: dict[str, str]) -> dict[str, str]:
        for reference in value.values():
            check_reference(reference)
        return value

    @model_validator(mode="after")
    def _names_a_url(self) -> Self:
        if self.exporter in ("otlp", "mlflow") and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError(f"the exporter {self.exporter} needs the `url` of its server")
        return self


class Span(Protocol):
    """One step. As a context manager it is the parent of what is opened within; else `end` it."""

    @property
    def recording(self) -> bool:
        """Whether attributes are kept: what is costly to tell is told only then."""
        ...

    @property
    def traceparent(self) -> str | None:
        """Names this span to whoever continues the trace, here or elsewhere."""
        ...

    def set(self, attributes: Mapping[str, Any]) -> None: ...
    def fail(self, error: BaseException) -> None:
        """Mark the step as failed, by the error's class or code; its text may be private."""
        ...

    def end(self) -> None: ...
    def __enter__(self) -> Span: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Told:
    """A step that has ended, as somebody else's record tells it. Ids are hexadecimal, times nanoseconds since 1970.

    Args:
        parent: "" for the first step of a trace.
        remote: the parent was made by another process.
        error: what went wrong, by its class or code; None: nothing.
    """

    name: str
    trace_id: str
    span_id: str
    parent: str
    kind: Kind
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    remote: bool = False
    error: str | None = None


class Sender(Protocol):
    """Sends steps that have ended already to where a configuration says."""

    def send(self, steps: Sequence[Told]) -> bool:
        """Whether they were taken; it waits for that, a few seconds at most."""
        ...

    def close(self) -> None: ...


class Tracer(Protocol):
    """Makes spans."""

    content: bool

    def start(self, name: str, attributes: Mapping[str, Any], parent: str | None, kind: Kind) -> Span: ...


class _Nothing:
    """The span that is none."""

    recording = False
    traceparent: str | None = None

    def set(self, attributes: Mapping[str, Any]) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def end(self) -> None: ...
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


_NOTHING = _Nothing()
_NO_ATTRIBUTES: Mapping[str, Any] = {}
_tracer: Tracer | None = None


def span(
    name: str, attributes: Mapping[str, Any] = _NO_ATTRIBUTES, *, parent: str | None = None, kind: Kind = "internal"
) -> Span:
    """Open a span under the one that is current in this thread; else under `parent`, a traceparent; else a new trace.

    Attributes whose value is None are left out.
    """
    return _NOTHING if _tracer is None else _tracer.start(name, attributes, parent, kind)


def keeps_content() -> bool:
    """Whether questions, passages and answers may stand in spans."""
    return _tracer is not None and _tracer.content


def said(messages: Sequence[tuple[str, str]]) -> str:
    """Messages (role, text) as the conventions write them into `gen_ai.input.messages` and `gen_ai.output.messages`."""
    return json.dumps(
        [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in messages], ensure_ascii=False
    )


def read_traceparent(header: str | None) -> str | None:
    """A caller's `traceparent`; None where it is none. Source: https://www.w3.org/TR/trace-context/#traceparent-header"""
    return header if header is not None and _TRACEPARENT.fullmatch(header) else None


def trace_id(traceparent: str | None) -> str | None:
    """The trace that a traceparent belongs to, as log rows keep it."""
    return None if traceparent is None else traceparent[3:35]


def open_sender(config: TracingConfig, service: str) -> Sender:
    """Where steps of another process' records go; the configuration's exporter is not `off`.

    Raises:
        ConfigError: a header's reference leads nowhere.
    """
    from llmops.core.tracing_otel import OtelSender

    return OtelSender(config, service)


@contextmanager
def tracing(config: TracingConfig, service: str) -> Iterator[None]:
    """Trace this process while the block runs; what waits at its end is sent, with little patience.

    Args:
        service: name of the program, as the traces show it.
    """
    if config.exporter == "off":
        yield
        return
    from llmops.core.tracing_otel import open_tracer

    global _tracer  # noqa: PLW0603 - one a process, as a log's handler
    opened = open_tracer(config, service)
    _tracer = opened
    try:
        yield
    finally:
        _tracer = None
        opened.close()

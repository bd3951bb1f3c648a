"""Spans by the OpenTelemetry SDK: made in the request's thread, sent by another, never waited for.

The only module that imports the SDK for traces; `tracing` imports it once a configuration asks for it. What the
collector does not take in time is dropped: an answer is worth more than its trace.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Status
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llmops.core.chain import Cancelled
from llmops.core.errors import LlmopsError
from llmops.core.secret import resolve_secret
from llmops.core.tracing import Kind, Told, TracingConfig

log = logging.getLogger(__name__)

_DELAY_MS = 1_000
_BATCH = 512
_TIMEOUT_S = 5.0
_LAST_WORDS_MS = 2_000
_PROPAGATOR = TraceContextTextMapPropagator()
_KINDS = {
    "internal": trace.SpanKind.INTERNAL,
    "client": trace.SpanKind.CLIENT,
    "server": trace.SpanKind.SERVER,
}


class OtelTracer:
    """Implements `tracing.Tracer`."""

    def __init__(self, provider: TracerProvider, processor: BatchSpanProcessor, *, content: bool) -> None:
        self.content = content
        self._processor = processor
        self._tracer = provider.get_tracer("llmops", version("llmops"))

    def start(self, name: str, attributes: Mapping[str, Any], parent: str | None, kind: Kind) -> OtelSpan:
        """See `tracing.span`."""
        within = None
        if parent is not None and not trace.get_current_span().get_span_context().is_valid:
            within = _PROPAGATOR.extract({"traceparent": parent})
        return OtelSpan(self._tracer.start_span(name, within, _KINDS[kind], _told(attributes)))

    def close(self) -> None:
        """Send what waits, and do not wait long for it."""
        self._processor._batch_processor.shutdown(timeout_millis=_LAST_WORDS_MS)


class OtelSpan:
    """Implements `tracing.Span`."""

    def __init__(self, inner: trace.Span) -> None:
        self._inner = inner
        self._token: Any = None

    @property
    def recording(self) -> bool:
        return self._inner.is_recording()

    @property
    def traceparent(self) -> str | None:
        it = self._inner.get_span_context()
        return f"00-{it.trace_id:032x}-{it.span_id:016x}-{it.trace_flags:02x}"

    def set(self, attributes: Mapping[str, Any]) -> None:
        self._inner.set_attributes(_told(attributes))

    def fail(self, error: BaseException) -> None:
        kind = "cancelled" if isinstance(error, Cancelled | GeneratorExit) else type(error).__name__
        self._inner.set_attribute("error.type", error.code if isinstance(error, LlmopsError) else kind)
        self._inner.set_status(trace.StatusCode.ERROR)

    def end(self) -> None:
        self._inner.end()

    def __enter__(self) -> OtelSpan:
        self._token = otel_context.attach(trace.set_span_in_context(self._inner))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)
        if error is not None:
            self.fail(error)
        self.end()


class OtelSender:
    """Implements `tracing.Sender`."""

    def __init__(self, config: TracingConfig, service: str) -> None:
        self._exporter = _exporter(config)
        self._resource = _resource(service)
        self._scope = InstrumentationScope("llmops", version("llmops"))

    def send(self, steps: Sequence[Told]) -> bool:
        """See `tracing.Sender`."""
        spans = [self._span(step) for step in steps]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()

    def _span(self, step: Told) -> ReadableSpan:
        status = Status(trace.StatusCode.UNSET if step.error is None else trace.StatusCode.ERROR)
        return ReadableSpan(
            step.name,
            context=_place(step.trace_id, step.span_id, remote=False),
            parent=_place(step.trace_id, step.parent, remote=step.remote) if step.parent else None,
            resource=self._resource,
            attributes=_told({**step.attributes, "error.type": step.error}),
            kind=_KINDS[step.kind],
            status=status,
            start_time=step.began_ns,
            end_time=step.ended_ns,
            instrumentation_scope=self._scope,
        )


class Lines(SpanExporter):
    """One JSON object a span, for looking: on stderr, or at the end of a file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        text = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
        if self._path is None:
            sys.stderr.write(text)
            return SpanExportResult.SUCCESS
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            log.warning("%d spans are lost: %s cannot be written (%s)", len(spans), self._path, error.strerror)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def open_tracer(config: TracingConfig, service: str) -> OtelTracer:
    """The tracer of a configuration, with a thread that sends.

    Raises:
        ConfigError: a header's reference leads nowhere.
    """
    sampler = ParentBased(TraceIdRatioBased(config.sample))
    provider = TracerProvider(sampler=sampler, resource=_resource(service), shutdown_on_exit=False)
    batch = min(_BATCH, config.queue)
    processor = BatchSpanProcessor(_exporter(config), config.queue, _DELAY_MS, batch, _TIMEOUT_S * 1000)
    provider.add_span_processor(processor)
    return OtelTracer(provider, processor, content=config.content)


def _exporter(config: TracingConfig) -> SpanExporter:
    if config.exporter in ("file", "console"):
        return Lines(Path(config.path) if config.exporter == "file" else None)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    assert config.url is not None
    url = config.url.rstrip("/")
    headers = {name: resolve_secret(reference) for name, reference in config.headers.items()}
    if config.exporter == "mlflow":
        headers["x-mlflow-experiment-id"] = config.experiment
    endpoint = url if url.endswith("/v1/traces") else f"{url}/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint, headers=headers, timeout=_TIMEOUT_S)


def _resource(service: str) -> Resource:
    return Resource.create({"service.name": service, "service.version": version("llmops")})


def _place(trace_id: str, span_id: str, *, remote: bool) -> trace.SpanContext:
    return trace.SpanContext(int(trace_id, 16), int(span_id, 16), remote, trace.TraceFlags(trace.TraceFlags.SAMPLED))


def _told(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}

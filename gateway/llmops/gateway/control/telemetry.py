"""Sends the workers' meters to an OpenTelemetry collector, under the names of the GenAI conventions.

Sums come from the workers, so nothing is measured twice: the SDK serves as a format and a way to send. Token counts are
known as sums, so that histogram has one bucket: its count and sum are right, its shape is not told.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.meters import Histogram, Merged

DURATION: Final = "llmops_gateway_duration_seconds"
FIRST_BYTE: Final = "llmops_gateway_first_byte_seconds"
TOKENS: Final = {"input": "llmops_gateway_input_tokens_total", "output": "llmops_gateway_output_tokens_total"}
REQUESTS: Final = "llmops_gateway_requests_total"
PROVIDERS: Final = {
    "openai": "openai",
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "cohere": "cohere",
    "mistral": "mistral_ai",
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
}
"""The conventions' well-known values of `gen_ai.provider.name`."""
OPERATIONS: Final = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
_log = logging.getLogger(__name__)


class Telemetry:
    """One collector. `start` is when the workers' sums began."""

    def __init__(self, endpoint: str, start: float | None = None) -> None:
        path = "" if endpoint.rstrip("/").endswith("/v1/metrics") else "/v1/metrics"
        self._exporter = OTLPMetricExporter(endpoint=endpoint.rstrip("/") + path, timeout=10)
        self._start_ns = int((start or time.time()) * 1e9)
        self._resource = Resource.create({"service.name": "llmops-gateway", "service.version": version("llmops")})
        self.sent = 0
        self.failed = 0

    def send(self, merged: Merged, config: GatewayConfig) -> bool:
        """Send the sums; tells whether the collector took them."""
        metrics = list(self._metrics(merged, config))
        if not metrics:
            return True
        scope = InstrumentationScope("llmops.gateway", version("llmops"))
        data = MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(scope, metrics, "")], "")])
        if self._exporter.export(data) is MetricExportResult.SUCCESS:
            self.sent += 1
            return True
        self.failed += 1
        _log.warning("the OpenTelemetry collector did not take the metrics; they are sent again with the next ones")
        return False

    def close(self) -> None:
        self._exporter.shutdown()

    def _metrics(self, merged: Merged, config: GatewayConfig) -> Iterator[Metric]:
        now_ns = time.time_ns()

        def point(attributes: dict[str, Any], one: Histogram) -> HistogramDataPoint:
            return HistogramDataPoint(
                attributes, self._start_ns, now_ns, one.count, one.sum, one.counts, one.bounds, 0.0, 0.0
            )

        tokens = [point(*pair) for pair in _tokens(merged, config)]
        if tokens:
            yield _metric("gen_ai.client.token.usage", "{token}", "Tokens used, by kind", tokens)
        for name, meter, told, attributes in (
            ("gen_ai.client.operation.duration", DURATION, "Duration of a call with what the gateway adds", _client),
            ("gen_ai.server.request.duration", DURATION, "Duration of a call as the gateway's client sees it", _server),
            ("gen_ai.server.time_to_first_token", FIRST_BYTE, "Time to the first byte of a reply", _server),
        ):
            points = [point(*pair) for pair in _durations(merged, config, meter, attributes)]
            if points:
                yield _metric(name, "s", told, points)


def _metric(name: str, unit: str, description: str, points: list[HistogramDataPoint]) -> Metric:
    return Metric(name, description, unit, HistogramData(points, AggregationTemporality.CUMULATIVE))


def _tokens(merged: Merged, config: GatewayConfig) -> Iterator[tuple[dict[str, Any], Histogram]]:
    for kind, name in TOKENS.items():
        for (series, labels), value in merged.counters.items():
            if series == name and value:
                calls = merged.counters.get((REQUESTS, labels), 0)
                yield (
                    {**_client(dict(labels), config), "gen_ai.token.type": kind},
                    Histogram((), [int(calls)], float(value)),
                )


def _durations(
    merged: Merged,
    config: GatewayConfig,
    meter: str,
    attributes: Callable[[dict[str, str], GatewayConfig], dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], Histogram]]:
    for (series, labels), one in merged.histograms.items():
        if series == meter and one.count:
            yield attributes(dict(labels), config), one


def _client(labels: dict[str, str], config: GatewayConfig) -> dict[str, Any]:
    """Towards the provider: its own name for the model."""
    provider, _, model = labels.get("target", "").partition("/")
    return _common(labels, config, provider) | ({"gen_ai.request.model": model} if model else {})


def _server(labels: dict[str, str], config: GatewayConfig) -> dict[str, Any]:
    """Towards the caller: the route is the model that was asked for."""
    provider = labels.get("target", "").partition("/")[0]
    return _common(labels, config, provider) | {"gen_ai.request.model": labels.get("route", "")}


def _common(labels: dict[str, str], config: GatewayConfig, provider: str) -> dict[str, Any]:
    known = config.providers.get(provider)
    status = labels.get("status", "")
    found: dict[str, Any] = {
        "gen_ai.operation.name": _operation(labels, config),
        "gen_ai.provider.name": PROVIDERS[known.kind] if known else "llmops",
        "llmops.route": labels.get("route", ""),
        "llmops.team": labels.get("team", ""),
    }
    return found if status.startswith("2") else {**found, "error.type": status}


def _operation(labels: dict[str, str], config: GatewayConfig) -> str:
    """Told by the meter where it knows, else by what the route offers first."""
    told = labels.get("operation")
    if told is None:
        route = config.route(labels.get("route", ""))
        told = route.operations[0] if route else "chat"
    return OPERATIONS.get(told, told)

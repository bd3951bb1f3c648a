"""What Prometheus reads of a serving process, in a registry of its own so that two servers in one process stay apart.

Labels hold endpoint names, status codes and feedback values: never a requester, a question, or what else has no bound.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmops.serving.endpoint import Endpoint
from llmops.serving.exchange import Exchange, Places

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The meters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._answers = Counter("llmops_answers", "Exchanges by outcome", ["endpoint", "status"], registry=registry)
        self._latency = Histogram(
            "llmops_answer_seconds", "Whole exchanges", ["endpoint"], buckets=SECONDS, registry=registry
        )
        self._first = Histogram(
            "llmops_first_token_seconds", "Time to the first piece of an answer", ["endpoint"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._queue = Histogram(
            "llmops_queue_seconds", "Wait for a free place", ["endpoint"], buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("llmops_tokens", "Tokens by direction", ["endpoint", "direction"], registry=registry)
        self._refused = Counter(
            "llmops_refused_answers", "Answers that say they do not know", ["endpoint"], registry=registry
        )
        self._feedback = Counter("llmops_feedback", "Thumbs given", ["endpoint", "value"], registry=registry)
        self._lost = Counter("llmops_log_rows_lost", "Rows the spool refused", ["table"], registry=registry)
        self._busy = Gauge("llmops_answers_running", "Answers being made now", registry=registry)
        self._waiting = Gauge("llmops_answers_waiting", "Requests that wait for a free place", registry=registry)
        self._version = Gauge(
            "llmops_endpoint_version", "Asset version in service; 0 while loading", ["endpoint"], registry=registry
        )
        self._failing = Gauge(
            "llmops_endpoint_reload_failing", "1 while a newer version fails to load", ["endpoint"], registry=registry
        )

    def watch_places(self, places: Places) -> None:
        self._busy.set_function(lambda: places.busy)
        self._waiting.set_function(lambda: places.waiting)

    def watch_endpoint(self, endpoint: Endpoint) -> None:
        self._version.labels(endpoint.name).set_function(
            lambda: (endpoint.loaded.ref.version or 0) if endpoint.loaded else 0
        )
        self._failing.labels(endpoint.name).set_function(lambda: 1 if endpoint.problem else 0)

    def exchange(self, exchange: Exchange) -> None:
        """Count one finished exchange."""
        name, outcome = exchange.question.endpoint, exchange.outcome
        self._answers.labels(name, str(outcome.status_code)).inc()
        self._latency.labels(name).observe(outcome.latency_s)
        self._queue.labels(name).observe(outcome.queue_s)
        if outcome.ttfb_s is not None:
            self._first.labels(name).observe(outcome.ttfb_s)
        if outcome.done is not None:
            self._tokens.labels(name, "input").inc(outcome.done.usage.input_tokens)
            self._tokens.labels(name, "output").inc(outcome.done.usage.output_tokens)
            if outcome.done.refused:
                self._refused.labels(name).inc()

    def feedback(self, endpoint: str, value: str) -> None:
        self._feedback.labels(endpoint, value).inc()

    def lost(self, table: str) -> None:
        self._lost.labels(table).inc()

    def render(self) -> bytes:
        return generate_latest(self._registry)

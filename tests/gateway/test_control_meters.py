"""The workers' meters as one: sums that never go down, in Prometheus' words and in OpenTelemetry's."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.control import config_of, dump, receiving, write_metrics

from llmops.gateway.control.meters import KEPT, Histogram, Meters, prometheus
from llmops.gateway.control.telemetry import DURATION, REQUESTS, Telemetry
from llmops.gateway.published import METRICS


def requests(meters: Meters) -> float:
    return meters.read().total(REQUESTS)


def test_workers_are_added_up(tmp_path: Path) -> None:
    write_metrics(tmp_path, 0, requests=3)
    write_metrics(tmp_path, 1, requests=4)
    merged = Meters(tmp_path).read()
    assert merged.total(REQUESTS) == 7
    assert merged.total(REQUESTS, route="fast") == 7
    assert merged.total(REQUESTS, route="deep") == 0
    assert merged.by(REQUESTS, "target") == {"near/small": 7}
    durations = merged.histogram(DURATION)
    assert durations is not None
    assert durations.count == 7
    assert durations.sum == pytest.approx(1.4)
    assert 0.1 <= (durations.quantile(0.5) or 0) <= 0.25


def test_sums_never_go_down_when_a_worker_is_replaced(tmp_path: Path) -> None:
    meters = Meters(tmp_path)
    write_metrics(tmp_path, 0, pid=100, requests=5)
    write_metrics(tmp_path, 1, pid=101, requests=2)
    assert requests(meters) == 7
    write_metrics(tmp_path, 0, pid=102, requests=1)  # its successor begins anew
    assert requests(meters) == 8
    write_metrics(tmp_path, 0, pid=102, requests=4)
    assert requests(meters) == 11
    write_metrics(tmp_path, 0, pid=102, requests=1)  # the same process id, but it fell: another process
    assert requests(meters) == 12
    (tmp_path / METRICS / "1.json").unlink()  # a place that was taken away
    assert requests(meters) == 12


def test_sums_survive_a_restart_of_control(tmp_path: Path) -> None:
    meters = Meters(tmp_path)
    write_metrics(tmp_path, 0, pid=100, requests=5)
    meters.read()
    write_metrics(tmp_path, 0, pid=101, requests=2)
    before = meters.read()
    meters.keep()
    write_metrics(tmp_path, 0, pid=102, requests=3)  # while nobody looked
    after = Meters(tmp_path).read()
    assert before.total(REQUESTS) == 7
    assert after.total(REQUESTS) == 10
    durations = after.histogram(DURATION)
    assert durations is not None
    assert durations.count == 10


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=30))
def test_sums_only_grow_and_lose_nothing_that_was_read(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("meters")
    meters, pids, counts, total = Meters(folder), [1, 2, 3], [0, 0, 0], 0
    for worker, more, restart in steps:
        if restart:
            pids[worker] += 10
            counts[worker] = 0
        counts[worker] += more
        total += more
        write_metrics(folder, worker, pid=pids[worker], requests=counts[worker])
        assert requests(meters) == total


def test_broken_files_are_told_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_metrics(tmp_path, 0, requests=2)
    (tmp_path / METRICS / "1.json").write_text("{")
    (tmp_path / KEPT).write_text("[]")
    assert requests(Meters(tmp_path)) == 2
    assert "begin anew" in caplog.text
    assert "cannot be read" in caplog.text


def test_gauges_are_of_living_workers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = write_metrics(tmp_path, 0)
    metrics.under_way = 3
    dump(metrics, tmp_path, 100, [("llmops_gateway_breaker_open", {"route": "fast", "target": "near/small"}, 1)])
    meters = Meters(tmp_path)
    assert meters.read().gauge("llmops_gateway_under_way") == 3
    assert meters.read().gauge("llmops_gateway_breaker_open", target="near/small") == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert meters.read().gauge("llmops_gateway_under_way") == 0
    assert requests(meters) == 1


def test_prometheus_reads_it(tmp_path: Path) -> None:
    write_metrics(tmp_path, 0, requests=3)
    file = tmp_path / METRICS / "0.json"
    value = json.loads(file.read_text())
    value["counters"].append(["odd_total", {"label": 'a "quoted"\\\nline'}, 2])
    file.write_text(json.dumps(value))
    families = {family.name: family for family in text_string_to_metric_families(prometheus(Meters(tmp_path).read()))}
    cost = families["llmops_gateway_cost_usd"].samples[0]
    assert cost.value == pytest.approx(0.0045)
    assert cost.labels == {"route": "fast", "target": "near/small", "status": "2xx", "team": "search"}
    assert families["odd"].samples[0].labels == {"label": 'a "quoted"\\\nline'}
    buckets = [one for one in families["llmops_gateway_duration_seconds"].samples if one.name.endswith("_bucket")]
    assert buckets[-1].labels["le"] == "+Inf"
    assert buckets[-1].value == 3
    assert [one.value for one in buckets] == sorted(one.value for one in buckets)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    bounds = (0.5, 1.0, 5.0, 10.0)
    counts = [0] * 5
    for value in values:
        counts[next((place for place, bound in enumerate(bounds) if value <= bound), 4)] += 1
    found = Histogram(bounds, counts).quantile(share)
    true = sorted(values)[max(0, -(-round(share * len(values) * 1e9) // 10**9) - 1)]
    edges = (0.0, *bounds)
    place = next((place for place, bound in enumerate(bounds) if true <= bound), 4)
    assert found is not None
    assert edges[min(place, 4)] <= found <= (bounds[place] if place < 4 else bounds[-1]) + 1e-9


def points(request: ExportMetricsServiceRequest) -> dict[str, list[Any]]:
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    return {metric.name: list(metric.histogram.data_points) for metric in metrics}


def attributes(point: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in point.attributes}


def test_a_collector_gets_the_genai_metrics(tmp_path: Path) -> None:
    write_metrics(tmp_path, 0, requests=3)
    write_metrics(tmp_path, 1, requests=1, status="5xx")
    with receiving() as collector:
        telemetry = Telemetry(collector.url)
        assert telemetry.send(Meters(tmp_path).read(), config_of(tmp_path))
        telemetry.close()
    path, headers, body = collector.got[0]
    assert path == "/v1/metrics"
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    request = ExportMetricsServiceRequest.FromString(body)
    resource = {one.key: one.value.string_value for one in request.resource_metrics[0].resource.attributes}
    assert resource["service.name"] == "llmops-gateway"
    found = points(request)
    assert set(found) == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
    }
    tokens = {
        (attributes(one)["gen_ai.token.type"], attributes(one).get("error.type")): one
        for one in found["gen_ai.client.token.usage"]
    }
    assert (tokens["input", None].sum, tokens["output", None].sum) == (300, 30)
    assert tokens["input", None].count == 3
    client = next(one for one in found["gen_ai.client.operation.duration"] if "error.type" not in attributes(one))
    assert attributes(client) | {"llmops.team": "search"} == attributes(client)
    assert attributes(client)["gen_ai.provider.name"] == "openai"
    assert attributes(client)["gen_ai.request.model"] == "small"
    assert attributes(client)["gen_ai.operation.name"] == "chat"
    assert client.count == sum(client.bucket_counts) == 3
    server = next(one for one in found["gen_ai.server.request.duration"] if "error.type" in attributes(one))
    assert attributes(server)["error.type"] == "5xx"
    assert attributes(server)["gen_ai.request.model"] == "fast"


def test_a_collector_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_metrics(tmp_path, 0)
    with receiving() as collector:
        collector.status = 400
        telemetry = Telemetry(f"{collector.url}/v1/metrics")
        assert not telemetry.send(Meters(tmp_path).read(), config_of(tmp_path))
        assert telemetry.failed == 1
        telemetry.close()
    assert "did not take the metrics" in caplog.text

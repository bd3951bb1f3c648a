"""A call's steps in a trace: what a worker notes and tells a provider, what the control process makes of the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.collector import Collector, running_collector, tree
from tests.support.faulty import Scripted, scripted_upstream, status, stream, whole
from tests.support.gateway import eventually
from tests.support.worker import PRICE, RunningWorker, route, running_worker, target, user_says

from llmops.core.ids import new_id
from llmops.core.lake import Lake
from llmops.core.tracing import TracingConfig
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control import traces as traces_module
from llmops.gateway.control.spans import steps_of
from llmops.gateway.control.traces import LATE, POSITION, Traces
from llmops.gateway.spans import begin_trace, read_trace, span_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{PARENT}-01"
TABLE = "dev.gateway.inference_log"


# --- what a worker notes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def worker(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    providers = {"first": {"url": upstream.url}, "told": {"url": upstream.url, "traceparent": True}}
    routes = [
        route("chat", target("told"), retry={"attempts": 2, "backoff_s": 0.001}),
        route("cached", target("told"), cache={}),
        route("untold"),
    ]
    config = {"providers": providers, "routes": routes, "tracing": {"exporter": "file", "content": True}}
    with running_worker(tmp_path_factory.mktemp("worker"), **config) as running:
        yield running


def test_each_attempt_is_a_step_that_its_provider_is_told_of(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.reset()
    upstream.script(status(500), whole("Good day", tokens=5))
    row = worker.row_of(worker.chat(traceparent=CALLER, **{"x-llmops-session": "s-1"}))
    call = row["invocation_id"]
    first, second = (f"00-{TRACE}-{span_id(call, number)}-01" for number in (1, 2))
    assert [seen.headers["traceparent"] for seen in upstream.asked] == [first, second]
    assert (row["trace_id"], row["tags"]["parent_span"]) == (TRACE, PARENT)

    one, failed, good = steps_of(as_read(row), worker.checked)
    assert (one.name, one.kind, one.span_id, one.parent, one.remote) == (
        "chat chat",
        "server",
        span_id(call),
        PARENT,
        True,
    )
    assert {step.trace_id for step in (one, failed, good)} == {TRACE}
    assert (failed.parent, failed.kind, failed.error) == (one.span_id, "client", "server_error")
    assert (good.parent, good.name, good.error) == (one.span_id, "chat upstream-model", None)
    assert one.began_ns <= failed.began_ns <= failed.ended_ns <= good.ended_ns <= one.ended_ns
    assert good.attributes["gen_ai.usage.output_tokens"] == 5
    assert good.attributes["gen_ai.provider.name"] == "openai"
    assert good.attributes["server.address"] == "127.0.0.1"
    told = one.attributes
    assert told["gen_ai.conversation.id"] == "s-1"
    assert (told["gen_ai.request.model"], told["llmops.attempts"]) == ("chat", 2)
    assert told["llmops.cost_usd"] == pytest.approx(float(row["cost_usd"]))
    assert "Hello there" in told["gen_ai.input.messages"]
    assert "Good day" in told["gen_ai.output.messages"]


def test_a_failed_call_says_why_by_its_code(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.reset(status(500, message="secret words"))
    reply = worker.chat(traceparent=CALLER)
    upstream.reset()
    assert reply.status_code >= 500
    steps = list(steps_of(as_read(worker.row_of(reply)), worker.checked))
    assert [step.error for step in steps] == [steps[0].error, "server_error", "server_error"]
    assert steps[0].error
    assert "secret words" not in json.dumps([step.attributes for step in steps]).replace("gen_ai.output", "")


def test_an_answer_out_of_the_cache_has_no_attempt(worker: RunningWorker) -> None:
    body = {**user_says("Again", temperature=0), "model": "cached"}
    rows = [worker.row_of(worker.chat(body, traceparent=CALLER)) for _ in range(2)]
    steps = [list(steps_of(as_read(row), worker.checked)) for row in rows]
    assert [len(each) for each in steps] == [2, 1]
    assert steps[1][0].attributes["llmops.cache"] == "hit"


def test_a_stream_and_a_trace_of_its_own(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.reset(stream(("Good ", "day")))
    reply = worker.chat(user_says(stream=True))
    one, attempt = steps_of(as_read(worker.row_of(reply)), worker.checked)
    upstream.reset()
    assert (one.parent, one.remote) == ("", False)
    assert len(one.trace_id) == 32
    assert one.trace_id != TRACE
    assert attempt.parent == one.span_id
    assert "Good day" in one.attributes["gen_ai.output.messages"]


def test_whoever_began_a_trace_decides_whether_it_is_kept(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.reset()
    row = worker.row_of(worker.chat(traceparent=CALLER[:-2] + "00"))
    assert row["trace_id"] == TRACE
    assert "parent_span" not in row["tags"]
    assert upstream.asked[-1].headers["traceparent"].endswith("-00")
    worker.chat({**user_says(), "model": "untold"}, traceparent=CALLER)
    assert "traceparent" not in upstream.asked[-1].headers
    began = worker.config["tracing"]
    worker.reload(tracing={"exporter": "file", "sample": 0})
    worker.until(lambda: "parent_span" not in worker.row_of(worker.chat())["tags"])
    assert "parent_span" in worker.row_of(worker.chat(traceparent=CALLER))["tags"]
    worker.reload(tracing={})
    worker.until(lambda: "trace_id" not in worker.row_of(worker.chat()))
    worker.reload(tracing=began)  # as the other tests know it
    worker.until(lambda: "parent_span" in worker.row_of(worker.chat())["tags"])


def test_callers_cannot_write_the_tags_that_spans_are_made_from(worker: RunningWorker) -> None:
    for tag in ("parent_span", "asked_ms"):
        assert worker.chat(**{"x-llmops-tags": f"{tag}=1"}).status_code == 400


def test_what_is_no_trace_is_none() -> None:
    good = read_trace(CALLER.encode())
    assert good is not None
    assert (good.trace_id, good.parent, good.sampled) == (TRACE, PARENT, True)
    for broken in ("", "x", CALLER.upper(), CALLER + "0", f"ff{CALLER[2:]}", CALLER.replace(TRACE, "0" * 32)):
        assert read_trace(broken.encode()) is None
    begun = [begin_trace(0.5) for _ in range(400)]
    assert 100 < sum(trace.sampled for trace in begun) < 300
    assert len({trace.trace_id for trace in begun}) == 400
    assert len({span_id("a", number) for number in range(9)} | {span_id("b")}) == 10


# --- what is made of the log -----------------------------------------------------------------------------------------


def as_read(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the spool as the lake gives it back."""
    found = dict.fromkeys(("trace_id", "session_id", "variant", "error_class", "ttfb_ms", "queue_ms", "input_tokens",
                           "output_tokens", "model_version", "request_json", "response_json")) | row  # fmt: skip
    return {**found, "request_time": datetime.fromtimestamp(row["request_time"] / 1e6, UTC)}


def a_row(**more: Any) -> dict[str, Any]:
    tags = {"operation": "chat", "target": "far/big", "provider": "far", "parent_span": PARENT, "asked_ms": "1.5"}
    return {
        "invocation_id": new_id(), "request_id": new_id(), "layer": "gateway", "endpoint": "fast", "trace_id": TRACE,
        "request_time": datetime.now(UTC).isoformat(), "assignment_p": 1.0, "status_code": 200, "latency_ms": 20.0,
        "tags": tags, **more,
    }  # fmt: skip


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


class Log:
    """A gateway's log, and who makes spans of it."""

    def __init__(self, folder: Path, tracing: TracingConfig) -> None:
        self.config = GatewayConfig.model_validate(
            {
                "state": {"dir": str(folder)},
                "providers": {"far": {"kind": "anthropic"}},
                "routes": [{"name": "fast", "targets": [{"provider": "far", "model": "big", "price": PRICE}]}],
                "tracing": tracing,
            }
        )
        self.config.folder.mkdir(parents=True)
        self.lake = Lake(self.config.state)

    def traces(self) -> Traces:
        return Traces(Lake(self.config.state), lambda: self.config)

    def write(self, *rows: dict[str, Any]) -> None:
        self.lake.append(TABLE, list(rows))


@pytest.fixture
def log(tmp_path: Path, collector: Collector) -> Log:
    return Log(tmp_path, TracingConfig(exporter="otlp", url=collector.url))


def test_rows_become_spans_once_also_where_the_table_is_compacted(log: Log, collector: Collector) -> None:
    traces = log.traces()
    traces.look()  # there is no table yet
    untraced = a_row(tags={"operation": "chat"})
    log.write(a_row(), untraced, a_row(layer="gateway_attempt"), a_row(trace_id=None))
    traces.look()
    assert tree(collector.spans) == {"chat fast": {"chat big": {}}}
    call, attempt = collector.spans
    assert (call.kind, attempt.kind) == (2, 3)
    assert call.attributes["gen_ai.provider.name"] == attempt.attributes["gen_ai.provider.name"] == "anthropic"
    log.write(a_row())
    log.lake.maintain(TABLE)  # one file of the two; nothing in it is new but the last row
    traces.look()
    traces.look()
    assert len(collector.spans) == 4
    assert (traces.sent, traces.lost) == (2, 0)


def test_what_a_collector_does_not_take_is_sent_again_and_once(log: Log, collector: Collector) -> None:
    traces = log.traces()
    traces.look()
    collector.status = 400
    log.write(a_row())
    traces.look()
    log.write(a_row())
    traces.look()
    assert collector.spans == []
    collector.status = 200
    traces.look()
    traces.look()
    assert len({span.id for span in collector.spans}) == len(collector.spans) == 4


def test_a_process_that_was_killed_goes_on_where_it_was(log: Log, collector: Collector) -> None:
    first = log.traces()
    log.write(a_row())
    first.look()
    log.write(a_row())  # and here it is killed
    log.traces().look()
    assert len({span.id for span in collector.spans}) == len(collector.spans) == 4
    for lost in ("torn", '{"version": 99}', "[]"):
        (log.config.folder / POSITION).write_text(lost)
        log.traces().look()
    assert len(collector.spans) == 16
    assert len({span.id for span in collector.spans}) == 4  # the same spans, not others


def test_a_call_that_ended_long_ago_is_not_told_of(log: Log, collector: Collector) -> None:
    traces = log.traces()
    traces.look()
    old = datetime.now(UTC) - LATE - timedelta(seconds=1)
    log.write(a_row(request_time=old.isoformat()))
    traces.look()
    assert collector.spans == []
    assert traces.lost == 1


def test_a_row_that_nobody_foresaw_holds_the_others_back_for_ten_minutes_at_most(
    log: Log, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    traces = Traces(Lake(log.config.state), lambda: log.config, every_s=0.01)
    over = {"request_time": (datetime.now(UTC) - timedelta(minutes=1)).isoformat()}  # ended, whenever it is looked at
    log.write(a_row(**over, tags=a_row()["tags"] | {"attempts": "{torn"}))
    with caplog.at_level("WARNING"):
        traces.start()
        eventually(lambda: caplog.records)
        log.write(a_row(**over))
        monkeypatch.setattr(traces_module, "LATE", timedelta(0))  # the ten minutes are over
        eventually(lambda: traces.lost >= 2)
        monkeypatch.undo()
        log.write(a_row())
        collector.wait("chat fast")
        traces.stop()
    assert len([record for record in caplog.records if "not traced now" in record.getMessage()]) == 1


def test_off_it_reads_nothing_and_follows_a_reload(log: Log, collector: Collector) -> None:
    on = log.config
    log.config = on.model_copy(update={"tracing": TracingConfig()})
    traces = log.traces()
    log.write(a_row(tags={"operation": "chat"}))
    traces.look()
    log.config = on
    traces.look()
    log.write(a_row())
    traces.look()
    assert len(collector.spans) == 2
    assert log.config.tracing.content is False
    assert "gen_ai.input.messages" not in collector.spans[0].attributes

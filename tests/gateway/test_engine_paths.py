"""The good ways of a request, and the ways in which the door says no, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from tests.support.faulty import INPUT_TOKENS, Scripted, scripted_upstream, stream, whole
from tests.support.worker import RunningWorker, route, running_worker, target, user_says


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def worker(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    routes = [
        route(),
        route("embed-only", operations=["embeddings"]),
        route("unlogged", log_bodies=False),
        route("tagged", tags={"purpose": "tests"}),
        route("told", target("told")),
    ]
    providers = {"first": {"url": upstream.url}, "told": {"url": upstream.url, "traceparent": True}}
    with running_worker(tmp_path_factory.mktemp("worker"), providers=providers, routes=routes) as running:
        yield running


def usd(tokens: int) -> Decimal:
    return (Decimal(INPUT_TOKENS) + 2 * tokens) / 1_000_000


def test_a_whole_answer_is_passed_on_priced_and_logged(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.script(whole("Good day", tokens=5))
    body = user_says("Hello", user="ann", max_tokens=50)
    reply = worker.chat(body, **{"x-llmops-tags": "app=a,run=7", "x-llmops-session": "s-1"})
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "Good day"
    assert reply.headers["x-llmops-route"] == "chat"
    assert reply.headers["x-llmops-target"] == "first/upstream-model"
    assert Decimal(reply.headers["x-llmops-cost-usd"]) == usd(5)
    sent = upstream.asked[-1]
    assert sent.body["model"] == "upstream-model"
    assert sent.body["max_tokens"] == 50
    assert "authorization" not in sent.headers
    row = worker.row_of(reply)
    assert row["layer"] == "gateway"
    assert row["endpoint"] == "chat"
    assert row["asset_kind"] == "route"
    assert row["asset_name"] == "dev.gateway.chat"
    assert row["status_code"] == 200
    assert row["input_tokens"] == INPUT_TOKENS
    assert row["output_tokens"] == 5
    assert Decimal(row["cost_usd"]) == usd(5)
    assert row["requester"] == "local"
    assert row["session_id"] == "s-1"
    assert row["assignment_p"] == 1.0
    assert row["model_version"] == "test-model"
    assert row["tags"] == {
        "app": "a",
        "run": "7",
        "operation": "chat",
        "target": "first/upstream-model",
        "provider": "first",
        "model": "upstream-model",
        "user": "ann",
    }
    assert json.loads(row["request_json"]) == body
    assert json.loads(row["response_json"]) == reply.json()
    assert 0 <= row["ttfb_ms"] <= row["latency_ms"]


def test_a_stream_is_passed_on_event_by_event_and_logged_whole(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.script(stream(("Good", " day")))
    with (
        worker.client() as client,
        client.stream("POST", "/v1/chat/completions", json=user_says(stream=True)) as reply,
    ):
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [line[6:] for line in reply.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert all(chunk["choices"] for chunk in chunks), "the usage event was not asked for"
    row = worker.row_of(reply)
    assert row["output_tokens"] == 2
    assert row["input_tokens"] == INPUT_TOKENS
    assert "estimated" not in row["tags"]
    logged = json.loads(row["response_json"])
    assert logged["object"] == "chat.completion"
    assert logged["choices"][0]["message"]["content"] == "Good day"
    assert logged["choices"][0]["finish_reason"] == "stop"
    assert Decimal(row["cost_usd"]) == usd(2)


def test_usage_is_streamed_to_those_who_ask_for_it(worker: RunningWorker) -> None:
    reply = worker.chat(user_says(stream=True, stream_options={"include_usage": True}))
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["usage"]["prompt_tokens"] == INPUT_TOKENS


def test_bodies_are_left_out_of_the_log_where_the_route_says_so(worker: RunningWorker) -> None:
    for body in (user_says(model="unlogged"), user_says(model="unlogged", stream=True)):
        row = worker.row_of(worker.chat(body))
        assert "request_json" not in row
        assert "response_json" not in row
        assert row["output_tokens"] == 5


def test_tags_of_the_route_are_logged(worker: RunningWorker) -> None:
    row = worker.row_of(worker.chat(user_says(model="tagged")))
    assert row["tags"]["purpose"] == "tests"


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"model": "chta"}, 404, "model_not_found", "did you mean `chat`?"),
        ({"model": 7}, 400, "missing_model", "model"),
        ({"model": "embed-only"}, 404, "operation_not_offered", "embeddings"),
        ({"max_tokens": "many"}, 400, None, "max_tokens"),
        ({"user": "x" * 300}, 400, "invalid_user", "200"),
    ],
)
def test_what_cannot_be_routed_is_refused_with_a_hint(
    worker: RunningWorker, change: dict[str, object], status: int, code: str | None, words: str
) -> None:
    reply = worker.chat({**user_says(), **change})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert code is None or error["code"] == code
    assert words in error["message"]
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "chat", "x": \xff}',
        b'{"model":"chat","a":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=["empty", "cut", "list", "null", "no-utf8", "deep"],
)
def test_bodies_that_are_no_json_object_are_refused(worker: RunningWorker, raw: bytes) -> None:
    with worker.client() as client:
        reply = client.post("/v1/chat/completions", content=raw)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    "header", ["no equals sign", ",".join(f"t{n}=b" for n in range(20)), "team=red", "bad key=1", "a=" + "x" * 3000]
)
def test_tags_that_do_not_read_are_refused(worker: RunningWorker, header: str) -> None:
    reply = worker.chat(**{"x-llmops-tags": header})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_tags"


def test_other_paths_and_methods(worker: RunningWorker) -> None:
    with worker.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ok"}
        assert client.get("/v1/chat/completions").status_code == 405
        assert client.post("/v1/models").status_code == 405
        missing = client.get("/v2/chat")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "not_found"
        listed = client.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == ["chat", "embed-only", "unlogged", "tagged", "told"]
        assert client.get("/v1/models/chat").json()["id"] == "chat"
        assert client.get("/v1/models/chatt").status_code == 404
        anthropic = client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
        assert anthropic["first_id"] == "chat"
        assert anthropic["data"][0]["type"] == "model"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, "foreign_host"),
        ({"host": "localhost:x"}, None),
        ({"origin": "https://evil.example"}, "foreign_origin"),
        ({"origin": "null"}, "foreign_origin"),
        ({"sec-fetch-site": "cross-site"}, "foreign_origin"),
    ],
)
def test_pages_of_other_sites_reach_nothing(
    worker: RunningWorker, upstream: Scripted, headers: dict[str, str], code: str | None
) -> None:
    before = len(upstream.asked)
    reply = worker.chat(**headers)
    assert reply.status_code in (400, 403)
    assert code is None or (reply.status_code, reply.json()["error"]["code"]) == (403, code)
    assert len(upstream.asked) == before


def test_our_own_names_and_origin_are_welcome(worker: RunningWorker) -> None:
    port = worker.url.rpartition(":")[2]
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert worker.chat(host=host, origin=f"http://{host}").status_code == 200


def test_ids_of_clients_without_the_scope_are_kept_beside_our_own(worker: RunningWorker) -> None:
    token = worker.key()
    reply = worker.chat(token=token, **{"x-request-id": "mine-1"})
    assert reply.headers["x-request-id"] != "mine-1"
    row = worker.row_of(reply)
    assert row["client_request_id"] == "mine-1"
    trusted = worker.key(scopes=frozenset({"gateway", "gateway:ids"}))
    assert worker.chat(token=trusted, **{"x-request-id": "mine-2"}).headers["x-request-id"] == "mine-2"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    row = worker.row_of(worker.chat(traceparent=trace))
    assert row["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_a_callers_trace_goes_on_to_a_provider_that_is_to_hear_of_it(worker: RunningWorker, upstream: Scripted) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    no_span = trace.replace("b7ad6b7169203331", "0" * 16)
    worker.chat(traceparent=trace)
    for shown in (trace, "no-trace", no_span, None):
        worker.chat({**user_says(), "model": "told"}, **({"traceparent": shown} if shown else {}))
    assert [seen.headers.get("traceparent") for seen in upstream.asked[-5:]] == [None, trace, None, None, None]


def test_no_secret_reaches_the_log(worker: RunningWorker) -> None:
    token = worker.key()
    secret = "sk-" + "a1" * 20
    reply = worker.chat(user_says(f"my key is {secret} and {token}"), token=token)
    worker.row_of(reply)
    for file in (worker.folder / "state").rglob("*.spool"):
        data = file.read_bytes()
        assert secret.encode() not in data
        assert token.rpartition("_")[2].encode() not in data
    assert token not in worker.log


def test_metrics_are_dumped_for_the_control_process(worker: RunningWorker) -> None:
    worker.chat()
    worker.until(lambda: worker.counter("llmops_gateway_requests_total", route="chat", status="2xx"))
    dumped = worker.metrics()
    assert dumped["worker"] == 0
    assert abs(dumped["time"] - time.time()) < 3600
    bounds = dumped["bounds"]["llmops_gateway_duration_seconds"]
    name, labels, counts, total = dumped["histograms"][0]
    assert name == "llmops_gateway_duration_seconds"
    assert set(labels) == {"route", "target", "status", "team"}
    assert len(counts) == len(bounds) + 1
    assert total >= 0


def test_keys_open_their_routes_and_no_others(tmp_path: Path, upstream: Scripted) -> None:
    routes = [route(), route("other"), route("third", target(), tags={"level": "gold"})]
    config = {"providers": {"first": {"url": upstream.url}}, "routes": routes, "require_keys": True}
    with running_worker(tmp_path, **config, teams={"blue": {}}) as worker:
        assert worker.chat().status_code == 401
        assert worker.chat(token="lk_" + "0" * 16 + "_" + "A" * 43).status_code == 401
        assert worker.chat(token="sk-nothing-of-ours").status_code == 401
        token = worker.key(routes=frozenset({"chat", "third"}), team="blue", tags={"app": "a"})
        with worker.client(**{"x-api-key": token}) as client:
            assert client.post("/v1/chat/completions", json=user_says()).status_code == 200
        denied = worker.chat(user_says(model="other"), token=token)
        assert (denied.status_code, denied.json()["error"]["code"]) == (403, "route_denied")
        with worker.client(token) as client:
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["chat", "third"]
        reply = worker.chat(user_says(model="third"), token=token, **{"x-llmops-tags": "level=tin"})
        row = worker.row_of(reply)
        assert row["requester"] == f"key:{token.split('_')[1]}"
        assert row["tags"]["team"] == "blue"
        assert row["tags"]["app"] == "a"
        assert row["tags"]["level"] == "gold"
        wrong_scope = worker.key(scopes=frozenset({"serving"}))
        assert worker.chat(token=wrong_scope).status_code == 403
        worker.policies.clear()
        worker.publish_keys()
        worker.until(lambda: worker.chat(token=token).status_code == 401)

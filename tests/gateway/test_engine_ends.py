"""How requests end otherwise: callers who leave, ceilings, new configurations, stops, slow readers."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.faulty import INPUT_TOKENS, Scripted, scripted_upstream, silent, stream, whole
from tests.support.worker import PATIENCE_S, PRICE, RunningWorker, route, running_worker, target, user_says

STOPPED_WITHIN_S = 0.1 if os.environ.get("LLMOPS_SOAK") == "1" else PATIENCE_S
"""From the caller's leaving until the upstream sees its connection closed; the bound itself needs a quiet machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture
def upstream(server: Scripted) -> Scripted:
    server.reset()
    return server


@pytest.fixture(scope="module")
def running(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    routes = [
        route("chat"),
        route("one-at-a-time", limits={"concurrent": 1}),
        route("first-limited", target("gone"), fallbacks=["spare"], retry={"attempts": 1}),
        route("spare", limits={"requests_per_minute": 1}),
    ]
    providers = {"first": {"url": server.url}, "gone": {"url": "http://127.0.0.1:9/v1"}}
    teams = {"small": {"user_budgets": [{"usd": "0.000040", "period": "day"}]}}
    with running_worker(tmp_path_factory.mktemp("worker"), providers=providers, routes=routes, teams=teams) as worker:
        yield worker


@pytest.fixture
def worker(running: RunningWorker, upstream: Scripted) -> RunningWorker:
    return running


def send(worker: RunningWorker, body: dict[str, Any], name: str) -> socket.socket:
    """A request on a connection that the test can drop; its row is found by the name."""
    host, port = worker.url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), PATIENCE_S)
    raw = json.dumps(body).encode()
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Llmops-Tags: name=%b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (name.encode(), len(raw), raw)
    )
    return sock


def left_row(worker: RunningWorker, name: str) -> dict[str, Any]:
    row = worker.until(lambda: next((row for row in worker.rows() if row["tags"].get("name") == name), {}))
    assert row["status_code"] == 499
    return row


def test_a_caller_who_leaves_a_stream_stops_the_upstream_and_pays_for_what_came(
    worker: RunningWorker, upstream: Scripted
) -> None:
    upstream.answer = stream(tuple("abcdefgh") * 1000, pause_s=0.05)
    sock = send(worker, user_says(stream=True), "stream")
    heard = b""
    while b'"c"' not in heard:
        part = sock.recv(65536)
        assert part, heard
        heard += part
    left_at = time.monotonic()
    sock.close()
    assert upstream.asked[0].left.wait(PATIENCE_S)
    row = left_row(worker, "stream")
    assert row["error_class"] == "client_gone"
    assert row["tags"]["estimated"] == "true"
    sent = upstream.asked[0].sent
    assert 3 <= row["output_tokens"] <= sent
    assert row["input_tokens"] >= INPUT_TOKENS
    assert Decimal(row["cost_usd"]) == Decimal(row["input_tokens"] + 2 * row["output_tokens"]) / 1_000_000
    assert json.loads(row["response_json"])["choices"][0]["message"]["content"].startswith("abc")
    assert upstream.asked[0].left_at - left_at <= STOPPED_WITHIN_S


def test_a_caller_who_leaves_before_the_answer_stops_the_upstream(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.answer = silent()
    sock = send(worker, user_says(), "whole")
    worker.until(lambda: upstream.asked)
    left_at = time.monotonic()
    sock.close()
    assert upstream.asked[0].left.wait(PATIENCE_S)
    assert upstream.asked[0].left_at - left_at <= STOPPED_WITHIN_S
    row = left_row(worker, "whole")
    assert row["output_tokens"] == 0
    assert row["tags"]["estimated"] == "true"
    assert Decimal(row["cost_usd"]) > 0


def test_a_caller_who_leaves_while_a_retry_waits_is_not_asked_for(tmp_path: Path, upstream: Scripted) -> None:
    upstream.answer = silent()
    gone = {"gone": {"url": "http://127.0.0.1:9/v1"}, "first": {"url": upstream.url}}
    routes = [route("chat", target("gone"), target(tier=1), retry={"attempts": 2, "backoff_s": 1e6})]
    with running_worker(tmp_path, providers=gone, routes=routes) as worker:
        sock = send(worker, user_says(), "waits")
        worker.until(lambda: worker.counter("llmops_gateway_attempts_failed_total"))
        sock.close()
        row = left_row(worker, "waits")
        assert Decimal(row["cost_usd"]) == 0
        assert json.loads(row["tags"]["attempts"])[0]["outcome"] == "refused"
        assert upstream.asked == []


def streamed_to(worker: RunningWorker, token: str, name: str) -> Iterator[bytes]:
    """The raw pieces of an answer; its row is found by the name."""
    tags = {"x-llmops-tags": f"name={name}"}
    with worker.client(token) as client:  # noqa: SIM117 - the client closes last
        with client.stream("POST", "/v1/chat/completions", json=user_says(stream=True), headers=tags) as reply:
            yield from reply.iter_raw()


def test_a_stream_ends_with_its_key_and_no_other_does(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.answer = stream(tuple("abcdefgh") * 1000, pause_s=0.05)
    ended, other = worker.key(), worker.key()
    streams = [streamed_to(worker, ended, "ended"), streamed_to(worker, other, "other")]
    for pieces in streams:
        assert b"data: " in next(pieces)
    worker.policies.pop(0)
    worker.publish_keys()
    rest = b"".join(streams[0])
    assert b'"code":"invalid_api_key"' in rest
    assert b"[DONE]" not in rest
    assert worker.chat(token=ended).status_code == 401
    row = worker.until(lambda: next((row for row in worker.rows() if row["tags"].get("name") == "ended"), {}))
    assert row["status_code"] == 401
    assert row["output_tokens"] >= 1
    assert row["tags"]["estimated"] == "true"
    assert Decimal(row["cost_usd"]) > 0
    assert upstream.asked[0].left.wait(PATIENCE_S)
    assert all(b"invalid_api_key" not in next(streams[1]) for _ in range(5))
    streams[1].close()
    left_row(worker, "other")


def test_an_answer_that_was_not_begun_is_refused_when_its_key_is_revoked(
    worker: RunningWorker, upstream: Scripted
) -> None:
    upstream.answer = silent()
    token = worker.key()
    replies: list[Any] = []
    asking = threading.Thread(target=lambda: replies.append(worker.chat(token=token)))
    asking.start()
    worker.until(lambda: upstream.asked)
    worker.policies.clear()
    worker.publish_keys()
    asking.join(PATIENCE_S)
    assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (401, "invalid_api_key")
    assert upstream.asked[0].left.wait(PATIENCE_S)


def test_a_stream_ends_at_the_second_at_which_its_key_does(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.answer = stream(tuple("abcdefgh") * 1000, pause_s=0.05)
    expires_at = time.time() + 1.5
    token = worker.key(publish_now=False, expires_at=expires_at)
    other = worker.key()
    rest = b"".join(streamed_to(worker, token, "expired"))
    assert time.time() >= expires_at
    assert b'"code":"invalid_api_key"' in rest
    assert b"[DONE]" not in rest
    upstream.reset()
    assert worker.chat(token=token).status_code == 401
    assert worker.chat(token=other).status_code == 200


def test_a_slow_reader_holds_up_the_upstream_and_misses_nothing(worker: RunningWorker, upstream: Scripted) -> None:
    piece = "x" * 65536
    upstream.answer = stream((piece,) * 400)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        host, port = worker.url.removeprefix("http://").split(":")
        sock.connect((host, int(port)))
        sock.settimeout(PATIENCE_S)
        raw = json.dumps(user_says(stream=True)).encode()
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
        sock.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(raw), raw))
        worker.until(lambda: upstream.asked and upstream.asked[0].sent)
        seen = -1
        while upstream.asked[0].sent != seen:  # until it stands still
            seen = upstream.asked[0].sent
            time.sleep(0.5)
        assert seen < 400
        received = 0
        while part := sock.recv(1 << 20):
            received += part.count(b"x")
    assert received >= 400 * 65536


def test_a_budget_refuses_what_it_cannot_cover(worker: RunningWorker, upstream: Scripted) -> None:
    token = worker.key(budgets=((2_000_000, "day"),))  # 0.002 dollars
    big = worker.chat(user_says(max_tokens=2000), token=token)
    assert (big.status_code, big.json()["error"]["code"]) == (429, "budget_exceeded")
    assert upstream.asked == []
    row = worker.row_of(big)
    assert "request_json" not in row
    assert Decimal(row["cost_usd"]) == 0
    assert worker.chat(user_says(max_tokens=100), token=token).status_code == 200
    worker.until(lambda: worker.counter("llmops_gateway_refused_total", subject="key", what="usd"))


def test_requests_beyond_a_rate_are_told_when_to_come_again(worker: RunningWorker) -> None:
    token = worker.key(limits={"requests_per_minute": 2})
    good = [worker.chat(token=token) for _ in range(2)]
    assert [reply.status_code for reply in good] == [200, 200]
    assert good[0].headers["x-ratelimit-limit-requests"] == "2"
    reply = worker.chat(token=token)
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert reply.headers["x-ratelimit-reset-requests"].endswith("s")
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(reply.headers["retry-after"]) <= 63  # the store's clock is reckoned from above


def test_users_of_a_team_have_ceilings_of_their_own(worker: RunningWorker) -> None:
    token = worker.key(team="small")
    body = user_says(max_tokens=1)
    cost = len(json.dumps(body)) + 200
    assert cost * int(PRICE["input"]) * 1000 > 40_000
    refused = worker.chat({**body, "user": "ann"}, token=token)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
    assert worker.chat(body, token=token).status_code == 200


def test_one_at_a_time_means_one_at_a_time(worker: RunningWorker, upstream: Scripted) -> None:
    upstream.script(silent())
    sock = send(worker, user_says(model="one-at-a-time"), "first")
    worker.until(lambda: upstream.asked)
    assert worker.chat(user_says(model="one-at-a-time")).status_code == 429
    sock.close()
    worker.until(lambda: worker.chat(user_says(model="one-at-a-time")).status_code == 200)


def test_a_fallback_routes_own_ceilings_hold(worker: RunningWorker) -> None:
    body = user_says(model="first-limited")
    assert worker.chat(body).status_code == 200
    assert worker.chat(body).status_code == 429
    assert worker.chat(user_says()).status_code == 200


def test_a_new_configuration_drops_no_request(tmp_path: Path, upstream: Scripted) -> None:
    upstream.answer = whole(delay_s=0.02)
    with scripted_upstream() as other:
        providers = {"first": {"url": upstream.url}, "other": {"url": other.url}}
        with running_worker(tmp_path, providers=providers, routes=[route()]) as worker:
            stop = threading.Event()
            statuses: list[int] = []

            def load() -> None:
                with worker.client() as client:
                    while not stop.is_set():
                        statuses.append(client.post("/v1/chat/completions", json=user_says()).status_code)

            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            for number in range(6):
                name = f"route-{number}"
                moved = {**providers, "first": {"url": upstream.url, "headers": {"x-version": str(number)}}}
                worker.reload(providers=moved, routes=[route(), route(name, target("other"))])
                worker.until(lambda name=name: worker.chat(user_says(model=name)).status_code == 200)
            worker.until(lambda: "5" in {asked.headers.get("x-version") for asked in upstream.asked})
            stop.set()
            for thread in threads:
                thread.join()
            assert set(statuses) == {200}
            asked = len(upstream.asked) + len(other.asked)
            worker.until(lambda: len([row for row in worker.rows() if row["status_code"] == 200]) == asked)


def test_a_request_under_way_ends_on_the_configuration_it_began_with(tmp_path: Path, upstream: Scripted) -> None:
    upstream.answer = stream(tuple("abcd"), held=True)
    with running_worker(tmp_path, providers={"first": {"url": upstream.url}}, routes=[route()]) as worker:
        with (
            worker.client() as client,
            client.stream("POST", "/v1/chat/completions", json=user_says(stream=True)) as reply,
        ):
            lines = reply.iter_lines()
            next(lines)
            with scripted_upstream() as other:
                worker.reload(providers={"first": {"url": other.url}}, routes=[route("new")])
                worker.until(lambda: worker.chat(user_says(model="new")).status_code == 200)
            upstream.asked[0].heard.set()
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert worker.row_of(reply)["output_tokens"] == 4
        assert worker.chat().status_code == 404


def test_a_broken_configuration_changes_nothing(tmp_path: Path, upstream: Scripted) -> None:
    with running_worker(tmp_path, providers={"first": {"url": upstream.url}}, routes=[route()]) as worker:
        worker.reload(routes=[route("elsewhere", regions=["mars"])])
        worker.until(lambda: "mars" in worker.log)
        assert worker.chat().status_code == 200


def test_a_stop_lets_replies_under_way_end(tmp_path: Path, upstream: Scripted) -> None:
    upstream.answer = stream(tuple("abcd"), held=True)
    with running_worker(
        tmp_path, providers={"first": {"url": upstream.url}}, routes=[route()], shutdown_s=30
    ) as worker:
        with (
            worker.client() as client,
            client.stream("POST", "/v1/chat/completions", json=user_says(stream=True)) as reply,
        ):
            lines = reply.iter_lines()
            next(lines)
            os.kill(worker.pid, signal.SIGTERM)
            worker.until(lambda: not worker.answers)
            upstream.asked[0].heard.set()
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert worker.row_of(reply)["status_code"] == 200
        worker.ended()

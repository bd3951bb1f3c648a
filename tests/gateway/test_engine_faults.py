"""Upstreams that fail in every way, against a real worker: retries, fallbacks, errors, and what is booked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.faulty import (
    INPUT_TOKENS,
    PATIENCE_S,
    Scripted,
    Step,
    hang_up,
    not_http,
    refused_url,
    scripted_upstream,
    silent,
    slow_body,
    status,
    stream,
    text,
    whole,
    wrong_length,
)
from tests.support.worker import RunningWorker, route, running_worker, target, user_says

QUICK = {"attempts": 2, "backoff_s": 0.01}


@pytest.fixture(scope="module")
def first_server() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def second_server() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture
def first(first_server: Scripted) -> Scripted:
    first_server.reset()
    return first_server


@pytest.fixture
def second(second_server: Scripted) -> Scripted:
    second_server.reset(whole("from the second", model="second-model"))
    return second_server


@pytest.fixture(scope="module")
def running(
    first_server: Scripted, second_server: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningWorker]:
    at_head = {"first_byte_s": 0.5, "idle_s": PATIENCE_S}
    within = {"first_byte_s": PATIENCE_S, "idle_s": 0.5}
    second_answers = {"first_byte_s": 2.0, "idle_s": PATIENCE_S}  # a slow machine's upstream is late, too
    once = {"attempts": 1, "backoff_s": 0}
    never_open = {"failures": 1000}
    routes = [
        route("chat", retry=QUICK, breaker=never_open),
        route("hasty", retry=QUICK, breaker=never_open, timeouts=at_head),
        route("hasty-within", retry=QUICK, breaker=never_open, timeouts=within),
        route("tiers", target(), target("second", tier=1), retry=once, breaker=never_open),
        route(
            "hasty-tiers", target(), target("second", tier=1), retry=once, breaker=never_open, timeouts=second_answers
        ),
        route("else", retry=once, fallbacks=["spare"], breaker=never_open),
        route("spare", target("second")),
        route("refused", target("refused"), target("second", tier=1), retry=QUICK, breaker=never_open),
        route("impatient", retry=once, timeouts={"first_byte_s": 20.0, "total_s": 1.0}),
    ]
    providers = {
        "first": {"url": first_server.url},
        "second": {"url": second_server.url},
        "refused": {"url": refused_url()},
    }
    with running_worker(tmp_path_factory.mktemp("worker"), providers=providers, routes=routes) as worker:
        yield worker


@pytest.fixture
def worker(running: RunningWorker, first: Scripted, second: Scripted) -> RunningWorker:
    return running


def attempts(row: dict[str, Any]) -> list[dict[str, Any]]:
    return list(json.loads(row["tags"]["attempts"]))


def events(reply: httpx.Response) -> list[Any]:
    found = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in found]


@pytest.mark.parametrize(
    "step", [status(500), status(503), hang_up(), not_http(), text(b"no json"), wrong_length()], ids=range(6)
)
def test_a_failure_is_asked_again(worker: RunningWorker, first: Scripted, step: Step) -> None:
    first.script(step)
    reply = worker.chat()
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "Hello"
    assert len(first.asked) == 2
    row = worker.row_of(reply)
    assert row["status_code"] == 200
    assert len(attempts(row)) == 1
    assert attempts(row)[0]["target"] == "first/upstream-model"


@pytest.mark.parametrize(
    ("step", "told", "code"),
    [
        (status(500, message="it broke"), 502, "upstream_error"),
        (status(503), 503, "overloaded"),
        (status(401, message="wrong key sk-abcdefghijklmnopqrstuvwxyz"), 502, "upstream_unauthenticated"),
        (status(404, message="no such model"), 404, None),
        (status(400, message="temperature is too high"), 400, None),
        (text(b'{"choices": 7}'), 502, "upstream_invalid"),
    ],
    ids=["500", "503", "401", "404", "400", "format"],
)
def test_what_stays_broken_is_told_with_its_own_status(
    worker: RunningWorker, first: Scripted, step: Step, told: int, code: str | None
) -> None:
    first.answer = step
    reply = worker.chat()
    assert reply.status_code == told
    error = reply.json()["error"]
    assert code is None or error["code"] == code
    assert "sk-abcdef" not in reply.text
    row = worker.row_of(reply)
    assert row["status_code"] == told
    assert Decimal(row["cost_usd"]) == 0


@pytest.mark.parametrize(
    ("model", "step", "code"),
    [("hasty", silent(), "first_byte_timeout"), ("hasty-within", slow_body(), "idle_timeout")],
    ids=["silent", "slow"],
)
def test_silence_is_told_as_a_timeout(
    worker: RunningWorker, first: Scripted, model: str, step: Step, code: str
) -> None:
    first.answer = step
    reply = worker.chat(user_says(model=model))
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert worker.row_of(reply)["error_class"] == code


def test_the_callers_own_mistakes_are_not_asked_again(worker: RunningWorker, first: Scripted) -> None:
    first.answer = status(400, message="temperature is too high")
    reply = worker.chat()
    assert "temperature" in reply.json()["error"]["message"]
    assert len(first.asked) == 1


def test_a_short_retry_after_is_waited_for(worker: RunningWorker, first: Scripted) -> None:
    first.script(status(429, ("Retry-After", "1")))
    began = time.monotonic()
    assert worker.chat().status_code == 200
    assert time.monotonic() - began >= 1.0
    assert len(first.asked) == 2


def test_a_long_retry_after_is_told_to_the_caller(worker: RunningWorker, first: Scripted) -> None:
    first.answer = status(429, ("Retry-After", "120"))
    reply = worker.chat()
    assert reply.status_code == 429
    assert 100 <= int(reply.headers["retry-after"]) <= 121
    assert len(first.asked) == 1


@pytest.mark.parametrize("name", ["tiers", "else"])
@pytest.mark.parametrize(
    "step",
    [status(500), status(429, ("Retry-After", "60")), status(401), hang_up(), text(b"no json")],
    ids=["500", "429", "401", "hang-up", "no-json"],
)
def test_another_target_answers(worker: RunningWorker, first: Scripted, name: str, step: Step) -> None:
    first.answer = step
    reply = worker.chat(user_says(model=name))
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "from the second"
    assert reply.headers["x-llmops-target"] == "second/upstream-model"
    row = worker.row_of(reply)
    assert row["tags"]["target"] == "second/upstream-model"
    assert [attempt["target"] for attempt in attempts(row)] == ["first/upstream-model"]


def test_a_refused_connection_goes_on_to_the_next_tier(worker: RunningWorker) -> None:
    reply = worker.chat(user_says(model="refused", stream=True))
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in events(reply)[:-1]) == "from the second"
    row = worker.row_of(reply)
    assert [attempt["outcome"] for attempt in attempts(row)] == ["refused", "refused"]


@pytest.mark.parametrize("step", [hang_up(), stream(cut_after=0), stream(error_after=0), silent(), status(500)])
def test_a_stream_that_fails_before_its_first_event_is_asked_elsewhere(
    worker: RunningWorker, first: Scripted, step: Step
) -> None:
    first.answer = step
    reply = worker.chat(user_says(model="hasty-tiers", stream=True))
    assert reply.status_code == 200
    assert events(reply)[-1] == "[DONE]"
    assert reply.headers["x-llmops-target"] == "second/upstream-model"


def test_a_stream_cut_in_the_middle_says_so_and_is_booked(worker: RunningWorker, first: Scripted) -> None:
    first.answer = stream(("one", "two", "three"), cut_after=2)
    reply = worker.chat(user_says(model="tiers", stream=True))
    assert reply.status_code == 200
    seen = events(reply)
    assert [event["choices"][0]["delta"]["content"] for event in seen[:2]] == ["one", "two"]
    assert seen[-1]["error"]["code"] == "upstream_cut"
    assert "[DONE]" not in seen
    row = worker.row_of(reply)
    assert row["error_class"] == "cut"
    assert row["status_code"] == 502
    assert row["output_tokens"] == 2
    assert row["tags"]["estimated"] == "true"
    assert Decimal(row["cost_usd"]) >= Decimal(2 * 2 + INPUT_TOKENS) / 1_000_000
    assert json.loads(row["response_json"])["choices"][0]["message"]["content"] == "onetwo"


def test_an_error_within_a_stream_is_told_in_our_words(worker: RunningWorker, first: Scripted) -> None:
    first.answer = stream(("one", "two"), error_after=1, held=True)
    lines: list[str] = []
    with (
        worker.client() as client,
        client.stream("POST", "/v1/chat/completions", json=user_says(stream=True)) as reply,
    ):
        for line in reply.iter_lines():
            lines.append(line)
            first.asked[0].heard.set()
    assert reply.status_code == 200
    (broke,) = [json.loads(line[6:]) for line in lines if '"error"' in line]
    assert broke["error"]["message"] == "it broke"
    assert worker.row_of(reply)["error_class"] == "server_error"


def test_an_attempt_that_may_have_cost_has_a_row_of_its_own(worker: RunningWorker, first: Scripted) -> None:
    first.answer = silent()
    reply = worker.chat(user_says(model="hasty-tiers"))
    row = worker.row_of(reply)
    paid = next(
        row for row in worker.rows(layer="gateway_attempt") if row["request_id"] == reply.headers["x-request-id"]
    )
    assert paid["parent_invocation_id"] == row["invocation_id"]
    assert paid["request_id"] == row["request_id"] == reply.headers["x-request-id"]
    assert paid["tags"]["target"] == "first/upstream-model"
    assert paid["tags"]["estimated"] == "true"
    assert Decimal(paid["cost_usd"]) > 0
    assert Decimal(reply.headers["x-llmops-cost-usd"]) == Decimal(paid["cost_usd"]) + Decimal(row["cost_usd"])


def test_the_longest_time_of_a_request_holds(worker: RunningWorker, first: Scripted) -> None:
    first.answer = silent()
    reply = worker.chat(user_says(model="impatient"))
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "upstream_timeout"
    worker.until(first.asked[0].left.is_set)


def test_a_server_that_does_not_stream_is_streamed_for(worker: RunningWorker, first: Scripted) -> None:
    value = {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "all at once"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3},
    }
    first.script(text(json.dumps(value).encode()))
    reply = worker.chat(user_says(stream=True))
    seen = events(reply)
    assert seen[0]["choices"][0]["delta"]["content"] == "all at once"
    assert seen[-1] == "[DONE]"
    assert worker.row_of(reply)["output_tokens"] == 3


def test_a_breaker_opens_spares_the_target_and_closes_again(first: Scripted, second: Scripted, tmp_path: Path) -> None:
    breaker = {"failures": 3, "open_s": 1.0}
    once = {"attempts": 1, "backoff_s": 0}
    routes = [
        route("chat", target(), target("second", tier=1), retry=once, breaker=breaker),
        route("alone", retry=once, breaker=breaker),
    ]
    providers = {"first": {"url": first.url}, "second": {"url": second.url}}
    with running_worker(tmp_path, providers=providers, routes=routes) as worker:
        first.answer = status(500)
        for _ in range(3):
            assert worker.chat().status_code == 200
        opened = time.monotonic()
        asked = len(first.asked)
        worker.chat()
        if time.monotonic() - opened < 1.0:
            assert len(first.asked) == asked, "an open breaker spares its target"
        first.answer = whole("well again")
        worker.until(lambda: worker.chat().headers["x-llmops-target"] == "first/upstream-model")
        assert worker.chat().headers["x-llmops-target"] == "first/upstream-model"
        first.answer = status(500)
        for _ in range(3):
            worker.chat(user_says(model="alone"))
        reply = worker.chat(user_says(model="alone"))
        if reply.json()["error"]["code"] == "targets_failing":
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) >= 1
        assert worker.until(lambda: worker.counter("llmops_gateway_breaker_opened_total"))

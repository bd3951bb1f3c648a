"""Which target a request goes to: residency, arms, rules, weights, escalation, cost and latency; cache and guards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.faulty import Scripted, Wire, scripted_upstream, status, stream, text, whole
from tests.support.worker import RunningWorker, route, running_worker, target, user_says

from llmops.core.assign import assign
from llmops.core.errors import ConfigError
from llmops.gateway.worker import check_worker

ONCE = {"attempts": 1, "backoff_s": 0}
DEAR = {"input": "100", "output": "200"}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Scripted, Scripted]]:
    with scripted_upstream() as first, scripted_upstream() as second:
        yield first, second


@pytest.fixture
def first(servers: tuple[Scripted, Scripted]) -> Scripted:
    servers[0].reset(whole("from the first"))
    return servers[0]


@pytest.fixture
def second(servers: tuple[Scripted, Scripted]) -> Scripted:
    servers[1].reset(whole("from the second"))
    return servers[1]


@pytest.fixture(scope="module")
def running(servers: tuple[Scripted, Scripted], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    arms = [target(variant="champion", weight=3), target("second", variant="challenger", weight=1)]
    cheap_first = [target(), target("second", tier=1)]
    pii = {"check": "pii", "kinds": ["email"]}
    routes = [
        route("here", target("second"), target(weight=1), regions=["eu"], retry=ONCE, fallbacks=["anywhere"]),
        route("anywhere", target("second")),
        route("arms", *arms, experiment={"id": "exp-1", "unit": "user"}, retry=ONCE, breaker={"failures": 1000}),
        route(
            "rules",
            *cheap_first,
            roi=[
                {"tier": 1, "has_tools": True},
                {"tier": 1, "min_input_tokens": 500},
                {"tier": 1, "tags": {"q": "hi"}},
            ],
        ),
        route("escalates", *cheap_first, escalate={"unless": "sure", "to_tier": 1}, retry=ONCE),
        route("weights", target(weight=9), target("second", weight=1)),
        route("cheapest", target(price=DEAR), target("second"), balance="cost"),
        route("cached", cache={"ttl_s": 600}),
        route("embeds", operations=["embeddings"]),
        route("similar", cache={"semantic": {"embedding_route": "embeds", "threshold": 0.9}}),
        route("short", target(context_tokens=100), target("second", tier=1)),
        route("masks", guards=[{**pii, "action": "mask", "on": "both"}]),
        route("blocks", guards=[{**pii, "action": "block", "on": "both"}]),
    ]
    providers = {
        "first": {"url": servers[0].url, "region": "eu"},
        "second": {"url": servers[1].url, "region": "us"},
    }
    with running_worker(tmp_path_factory.mktemp("worker"), providers=providers, routes=routes) as worker:
        yield worker


@pytest.fixture
def worker(running: RunningWorker, first: Scripted, second: Scripted) -> RunningWorker:
    return running


def said(reply: Any) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def test_residency_is_never_broken_by_weights_failures_or_fallbacks(
    worker: RunningWorker, first: Scripted, second: Scripted
) -> None:
    for _ in range(5):
        assert said(worker.chat(user_says(model="here"))) == "from the first"
    first.answer = status(500)
    reply = worker.chat(user_says(model="here"))
    assert reply.status_code == 502
    assert second.asked == []


def test_arms_are_sticky_and_logged_with_their_propensity(worker: RunningWorker) -> None:
    shares = [("challenger", 0.25), ("champion", 0.75)]
    for number in range(12):
        user = f"user-{number}"
        arm, propensity = assign(user, "exp-1", shares)
        for _ in range(2):
            reply = worker.chat(user_says(model="arms", user=user))
            assert said(reply) == ("from the second" if arm == "challenger" else "from the first")
            row = worker.row_of(reply)
            assert (row["variant"], row["assignment_p"], row["experiment_id"]) == (arm, propensity, "exp-1")
            assert len(row["unit_id_hash"]) == 64


def test_an_arm_that_fails_is_replaced_and_still_logged_as_assigned(worker: RunningWorker, first: Scripted) -> None:
    user = next(
        f"u{n}" for n in range(99) if assign(f"u{n}", "exp-1", [("challenger", 0.25), ("champion", 0.75)])[1] > 0.5
    )
    first.answer = status(500)
    reply = worker.chat(user_says(model="arms", user=user))
    assert said(reply) == "from the second"
    row = worker.row_of(reply)
    assert row["variant"] == "champion"
    assert row["tags"]["target"] == "second/upstream-model"


@pytest.mark.parametrize(
    ("change", "tags", "answer"),
    [
        ({}, "", "from the first"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "", "from the second"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "", "from the second"),
        ({}, "q=hi", "from the second"),
        ({}, "q=lo", "from the first"),
    ],
)
def test_the_first_rule_that_matches_picks_the_tier(
    worker: RunningWorker, change: dict[str, Any], tags: str, answer: str
) -> None:
    reply = worker.chat({**user_says(model="rules"), **change}, **{"x-llmops-tags": tags})
    assert said(reply) == answer


def test_an_answer_that_is_not_good_enough_is_asked_for_again_from_a_better_target(
    worker: RunningWorker, first: Scripted, second: Scripted
) -> None:
    first.script(whole("I am sure", tokens=3))
    assert said(worker.chat(user_says(model="escalates"))) == "I am sure"
    assert second.asked == []
    first.script(whole("perhaps", tokens=3))
    reply = worker.chat(user_says(model="escalates"))
    assert said(reply) == "from the second"
    row = worker.row_of(reply)
    paid = next(
        row for row in worker.rows(layer="gateway_attempt") if row["request_id"] == reply.headers["x-request-id"]
    )
    assert paid["error_class"] == "escalated:unless"
    assert paid["output_tokens"] == 3
    total = Decimal(paid["cost_usd"]) + Decimal(row["cost_usd"])
    assert Decimal(reply.headers["x-llmops-cost-usd"]) == total


def test_where_the_better_target_fails_the_first_answer_stands(
    worker: RunningWorker, first: Scripted, second: Scripted
) -> None:
    first.script(whole("perhaps", tokens=3))
    second.answer = status(500)
    reply = worker.chat(user_says(model="escalates"))
    assert said(reply) == "perhaps"
    row = worker.row_of(reply)
    assert row["output_tokens"] == 3
    assert Decimal(row["cost_usd"]) == Decimal(reply.headers["x-llmops-cost-usd"])
    wanted = reply.headers["x-request-id"]
    assert not [row for row in worker.rows(layer="gateway_attempt") if row["request_id"] == wanted]


def test_weights_share_the_traffic(worker: RunningWorker) -> None:
    answers = Counter(said(worker.chat(user_says(model="weights"))) for _ in range(60))
    assert answers["from the first"] > answers["from the second"]  # fails once in about 10^12 runs


def test_the_cheapest_target_is_asked(worker: RunningWorker) -> None:
    assert {said(worker.chat(user_says(model="cheapest"))) for _ in range(5)} == {"from the second"}


def test_an_answer_is_given_again_whole_and_as_a_stream(worker: RunningWorker, first: Scripted) -> None:
    body = user_says("a question asked twice", model="cached")
    asked = worker.chat(body)
    assert asked.headers["x-llmops-cache"] == "miss"
    again = worker.chat(body)
    assert again.headers["x-llmops-cache"] == "hit"
    assert again.json() == asked.json()
    assert Decimal(again.headers["x-llmops-cost-usd"]) == 0
    streamed = worker.chat({**body, "stream": True})
    pieces = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"]) == said(
        asked
    )
    assert streamed.text.rstrip().endswith("[DONE]")
    assert len(first.asked) == 1
    row = worker.row_of(again)
    assert row["tags"]["cache"] == "hit"
    assert Decimal(row["cost_usd"]) == 0


def test_a_stream_fills_the_cache_and_a_failure_does_not(worker: RunningWorker, first: Scripted) -> None:
    first.script(status(400))
    failed = user_says("another question", model="cached")
    assert worker.chat(failed).status_code == 400
    assert worker.chat(failed).headers["x-llmops-cache"] == "miss"
    first.script(stream(("one", "two")))
    body = user_says("a streamed question", model="cached")
    worker.chat({**body, "stream": True})
    assert said(worker.chat(body)) == "onetwo"


def vectors(wire: Wire) -> None:
    """Questions with the same first word lie at the same place."""
    if wire.asked.path.endswith("/embeddings"):
        word = wire.asked.body["input"].split()[0]
        place = [float(word == "Where"), float(word == "When"), 0.1]
        data = [{"object": "embedding", "index": 0, "embedding": place}]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        text(json.dumps({"object": "list", "model": "e", "data": data, "usage": usage}).encode())(wire)
    else:
        whole("an answer")(wire)


def test_a_question_that_means_the_same_is_answered_from_the_cache(worker: RunningWorker, first: Scripted) -> None:
    first.answer = vectors
    asked = worker.chat(user_says("Where is the key kept?", model="similar"))
    assert asked.headers["x-llmops-cache"] == "miss"
    again = worker.chat(user_says("Where is the key to be found?", model="similar"))
    assert again.headers["x-llmops-cache"] == "hit"
    assert said(again) == "an answer"
    other = worker.chat(user_says("When is it open?", model="similar"))
    assert other.headers["x-llmops-cache"] == "miss"

    def embeddings() -> list[dict[str, Any]]:
        return [row for row in worker.rows() if row["endpoint"] == "embeds"]

    worker.until(lambda: len(embeddings()) >= 3)
    embedded = embeddings()
    assert len(embedded) == 3
    assert all(Decimal(row["cost_usd"]) > 0 for row in embedded)


def test_long_prompts_go_to_a_target_that_takes_them(worker: RunningWorker) -> None:
    assert said(worker.chat(user_says(model="short"))) == "from the first"
    assert said(worker.chat(user_says("word " * 200, model="short"))) == "from the second"


def test_guards_mask_what_goes_in_and_out(worker: RunningWorker, first: Scripted) -> None:
    first.answer = whole("write to bob@example.com")
    reply = worker.chat(user_says("I am ann@example.com", model="masks"))
    assert "ann@example.com" not in first.asked[-1].raw.decode()
    assert "bob@example.com" not in reply.text
    row = worker.row_of(reply)
    assert "example.com" not in row["request_json"] + row["response_json"]
    assert "pii:email" in row["tags"]["findings"]
    streamed = worker.chat(user_says("Hello", model="masks", stream=True))
    assert streamed.text.rstrip().endswith("[DONE]")
    assert "bob@example.com" not in worker.row_of(streamed)["response_json"]


def test_guards_block_what_goes_in_and_out(worker: RunningWorker, first: Scripted) -> None:
    reply = worker.chat(user_says("I am ann@example.com", model="blocks"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
    assert first.asked == []
    assert "request_json" not in worker.row_of(reply)
    first.answer = whole("write to bob@example.com", tokens=4)
    reply = worker.chat(user_says("Hello", model="blocks"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
    assert worker.row_of(reply)["output_tokens"] == 4
    assert Decimal(worker.row_of(reply)["cost_usd"]) > 0
    streamed = worker.chat(user_says("Hello", model="blocks", stream=True))
    assert "bob@example.com" not in streamed.text
    assert "content_filter" in streamed.text


def test_pictures_at_private_addresses_are_not_asked_for(worker: RunningWorker, first: Scripted) -> None:
    picture = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}
    body = user_says(model="cheapest", messages=[{"role": "user", "content": [picture]}])
    assert worker.chat(body).status_code == 400
    assert first.asked == []


def test_a_route_without_a_target_in_its_regions_is_refused_at_once(tmp_path: Path) -> None:
    providers = {"first": {"url": "http://127.0.0.1:9/v1", "region": "us"}}
    worker = RunningWorker(tmp_path, {"providers": providers, "routes": [route(regions=["eu"])]})
    with pytest.raises(AssertionError, match="regions"):
        worker.start()
    worker.abandon()


def test_no_question_leaves_its_regions_to_be_embedded(tmp_path: Path) -> None:
    """Not by the route that embeds, and not by that one's fallback."""
    url = "http://127.0.0.1:9/v1"
    providers = {"first": {"url": url, "region": "us"}, "near": {"url": url, "region": "eu"}}
    cache = {"semantic": {"embedding_route": "embed"}}
    asking = route("chat", target("near"), regions=["eu"], cache=cache)
    for number, (embedding, good) in enumerate([
        ([route("embed")], False),
        ([route("embed", target("near"), target(tier=1))], False),
        ([route("embed", target("near"), fallbacks=["spare"]), route("spare")], False),
        ([route("embed", target("near"), target(tier=1), regions=["eu"], fallbacks=["spare"]), route("spare")], True),
    ]):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        config = RunningWorker(folder, {"providers": providers, "routes": [asking, *embedding]}).checked
        if good:
            check_worker(config)
        else:
            with pytest.raises(ConfigError, match="outside its regions"):
                check_worker(config)

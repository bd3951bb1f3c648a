"""Counting tokens through the gateway, with Anthropic's official SDK: free, guarded, limited, logged."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.openai import OpenAIServer
from tests.support.upstreams.wire import KEY, WireServer, running
from tests.support.worker import RunningWorker, route, running_worker, target

HELLO: Any = [{"role": "user", "content": "Hello"}]
PRIVATE: Any = [{"role": "user", "content": "I am ann@example.com"}]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, WireServer]]:
    with running(OpenAIServer) as gpt, running(AnthropicServer) as claude:
        yield {"gpt": gpt, "claude": claude}


@pytest.fixture(scope="module")
def worker(upstreams: dict[str, WireServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "key").write_text(KEY)
    kinds = {"gpt": "openai", "claude": "anthropic"}
    providers = {
        name: {"kind": kind, "url": upstreams[name].url, "api_key": f"file:{folder / 'key'}"}
        for name, kind in kinds.items()
    }
    routes = [
        route("claude", target("claude")),
        route("gpt", target("gpt")),
        route("both", target("gpt"), target("claude", tier=1)),
        route("guarded", target("claude"), guards=[{"check": "pii", "action": "mask"}], cache={}),
    ]
    with running_worker(folder, providers=providers, routes=routes, require_keys=True) as running_one:
        yield running_one


def client(worker: RunningWorker, **key: Any) -> Anthropic:
    return Anthropic(base_url=worker.url, api_key=worker.key(**key), max_retries=0, timeout=60)


@pytest.mark.parametrize("model", ["claude", "both", "guarded"])
def test_the_provider_counts(worker: RunningWorker, upstreams: dict[str, WireServer], model: str) -> None:
    with client(worker, budgets=((1, "total"),)) as asked:  # a budget that covers nothing is enough
        for _ in range(2):
            reply = asked.messages.with_raw_response.count_tokens(model=model, messages=HELLO)
    told: Any = reply.parse()
    seen = upstreams["claude"].requests[-1]
    assert (seen.path, seen.body["model"]) == ("/v1/messages/count_tokens", "upstream-model")
    assert told.input_tokens == seen.input_tokens
    row = worker.row_of(reply.http_response)
    assert (row["endpoint"], row["status_code"], row["output_tokens"], Decimal(row["cost_usd"])) == (model, 200, 0, 0)
    assert row["tags"]["operation"] == "count_tokens"


def test_a_message_is_told_from_its_count(worker: RunningWorker) -> None:
    with client(worker) as asked:
        replies = [
            asked.messages.with_raw_response.count_tokens(model="claude", messages=HELLO),
            asked.messages.with_raw_response.create(model="claude", messages=HELLO, max_tokens=9),
        ]
    rows = [worker.row_of(reply.http_response) for reply in replies]
    assert [row["tags"]["operation"] for row in rows] == ["count_tokens", "messages"]


def test_where_nobody_counts_it_is_said(worker: RunningWorker, upstreams: dict[str, WireServer]) -> None:
    before = len(upstreams["gpt"].requests)
    with client(worker) as asked:
        with pytest.raises(anthropic.NotFoundError, match="no target of `gpt` counts tokens"):
            asked.messages.count_tokens(model="gpt", messages=HELLO)
        with pytest.raises(anthropic.BadRequestError):
            asked.messages.count_tokens(model="claude", messages=[])
    assert len(upstreams["gpt"].requests) == before


def test_keys_guards_and_limits_hold(worker: RunningWorker, upstreams: dict[str, WireServer]) -> None:
    wrong = Anthropic(base_url=worker.url, api_key="lk_wrong", max_retries=0)
    with wrong, pytest.raises(anthropic.AuthenticationError):
        wrong.messages.count_tokens(model="claude", messages=HELLO)
    with client(worker, limits={"requests_per_minute": 1}) as asked:
        asked.messages.count_tokens(model="guarded", messages=PRIVATE)
        assert "ann@example.com" not in str(upstreams["claude"].requests[-1].body)
        with pytest.raises(anthropic.RateLimitError):
            asked.messages.count_tokens(model="claude", messages=HELLO)
    with worker.client() as plain:
        assert plain.get("/v1/messages/count_tokens").status_code == 401

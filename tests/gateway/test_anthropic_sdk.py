"""Anthropic's official SDK, unmodified, against the gateway: in front of Anthropic's format and of OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from pydantic import BaseModel
from tests.support.provider_calls import PIXEL
from tests.support.upstreams.anthropic import AnthropicServer, signature_of
from tests.support.upstreams.openai import OpenAIServer
from tests.support.upstreams.wire import KEY, Answer, Call, WireServer, running
from tests.support.worker import PRICE, RunningWorker, running_worker

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS = (Call("get_weather", {"city": "Köln"}, id="toolu_01"), Call("get_weather", {"city": "Rome"}, id="toolu_02"))


class Place(BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, WireServer]]:
    with running(OpenAIServer) as gpt, running(AnthropicServer) as claude:
        yield {"gpt": gpt, "claude": claude}


@pytest.fixture(scope="module")
def worker(upstreams: dict[str, WireServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "key").write_text(KEY)
    key = f"file:{folder / 'key'}"
    providers = {
        "gpt": {"kind": "openai", "url": upstreams["gpt"].url, "api_key": key},
        "claude": {"kind": "anthropic", "url": upstreams["claude"].url, "api_key": key},
    }
    routes = [
        {
            "name": name,
            "targets": [{"provider": name, "model": f"{name}-model", "price": PRICE, "max_output_tokens": 5000}],
            "retry": {"attempts": 1},
            "breaker": {"failures": 100},
        }
        for name in providers
    ]
    guarded = {**routes[1], "name": "guarded", "guards": [{"check": "pii", "on": "output", "action": "mask"}]}
    with running_worker(folder, providers=providers, routes=[*routes, guarded], require_keys=True) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def token(worker: RunningWorker) -> str:
    return worker.key()


@pytest.fixture(scope="module")  # to make one takes longer than most of its calls
def client(worker: RunningWorker, token: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=worker.url, api_key=token, max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(params=["gpt", "claude"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream(upstreams: dict[str, WireServer], model: str) -> Iterator[WireServer]:
    server = upstreams[model]
    server.forget()
    yield server
    assert server.refused == []


Answering = Callable[..., None]


@pytest.fixture
def says(upstream: WireServer) -> Answering:
    def script(*pieces: str, **more: Any) -> None:
        upstream.script(Answer(pieces=pieces, **more))

    return script


def test_a_message(client: Anthropic, model: str, upstream: WireServer, says: Answering) -> None:
    says("Hello", " you", cached=3)
    more: dict[str, Any] = {"system": "Be brief.", "stop_sequences": ["END"], "metadata": {"user_id": "u"}}
    reply = client.messages.create(model=model, max_tokens=50, messages=HELLO, **more)
    assert (reply.type, reply.role, reply.stop_reason) == ("message", "assistant", "end_turn")
    assert [(block.type, getattr(block, "text", "")) for block in reply.content] == [("text", "Hello you")]
    charge = upstream.ledger[-1]
    assert reply.usage.cache_read_input_tokens == 3
    assert reply.usage.input_tokens == charge.input_tokens - 3
    assert reply.usage.output_tokens == charge.output_tokens
    assert "Be brief." in json.dumps(upstream.requests[-1].body)


def test_a_call_is_logged_as_it_was_charged(
    client: Anthropic, worker: RunningWorker, model: str, upstream: WireServer, says: Answering
) -> None:
    says("One", " two")
    reply = client.messages.with_raw_response.create(model=model, max_tokens=50, messages=HELLO)
    charge = upstream.ledger[-1]
    wanted = reply.headers["x-request-id"]
    row = worker.until(lambda: next((row for row in worker.rows() if row["request_id"] == wanted), None))
    assert (row["input_tokens"], row["output_tokens"]) == (charge.input_tokens, charge.output_tokens)
    assert json.loads(row["response_json"])["content"][0]["text"] == "One two"


def test_a_stream(client: Anthropic, model: str, upstream: WireServer, says: Answering) -> None:
    says("Hel", "lo", " you", cached=2)
    with client.messages.stream(model=model, max_tokens=50, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == "Hello you"
        final = stream.get_final_message()
    charge = upstream.ledger[-1]
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == charge.output_tokens
    assert (final.usage.input_tokens or 0) + (final.usage.cache_read_input_tokens or 0) == charge.input_tokens


def test_raw_events_come_in_anthropics_order(client: Anthropic, model: str, says: Answering) -> None:
    says("a", "b")
    events = [event.type for event in client.messages.create(model=model, max_tokens=9, messages=HELLO, stream=True)]
    assert [kind for kind in events if kind != "ping"] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_there_and_back(
    client: Anthropic, model: str, upstream: WireServer, says: Answering, streamed: bool
) -> None:
    says("Two calls.", tools=CALLS)
    asked: dict[str, Any] = {"model": model, "max_tokens": 50, "messages": HELLO, "tools": [WEATHER]}
    choice: Any = {"type": "any", "disable_parallel_tool_use": False}
    if streamed:
        with client.messages.stream(**asked, tool_choice=choice) as stream:
            reply: Any = stream.get_final_message()
    else:
        reply = client.messages.create(**asked, tool_choice=choice)
    assert reply.stop_reason == "tool_use"
    uses = [block for block in reply.content if block.type == "tool_use"]
    assert [(use.id, use.name, use.input) for use in uses] == [(call.id, call.name, call.arguments) for call in CALLS]
    says("Sun and rain.")
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    told: Any = [*results, {"type": "text", "text": "And now?"}]
    turns: Any = [*HELLO, {"role": "assistant", "content": reply.content}, {"role": "user", "content": told}]
    final = client.messages.create(**{**asked, "messages": turns})
    assert final.content[0].type == "text"
    assert "sunny" in json.dumps(upstream.requests[-1].body)


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking(client: Anthropic, model: str, upstream: WireServer, says: Answering, streamed: bool) -> None:
    says("Seven.", thinking="Three and four. ")
    asked: dict[str, Any] = {"model": model, "max_tokens": 4000, "messages": HELLO}
    asked["thinking"] = {"type": "enabled", "budget_tokens": 2000}
    if streamed:
        with client.messages.stream(**asked) as stream:
            reply: Any = stream.get_final_message()
    else:
        reply = client.messages.create(**asked)
    assert [block.type for block in reply.content] == ["thinking", "text"]
    assert reply.content[0].thinking.strip() == "Three and four."
    sent = upstream.requests[-1].body
    if model == "gpt":
        assert sent["reasoning_effort"] == "low"
    else:
        assert sent["thinking"] == asked["thinking"]
        assert reply.content[0].signature == signature_of("Three and four. ")
        says("Again.")  # the signed block is accepted again by the server that made it
        turns = [*HELLO, {"role": "assistant", "content": reply.content}, *HELLO]
        client.messages.create(**{**asked, "messages": turns})


def test_pictures(client: Anthropic, model: str, upstream: WireServer, says: Answering) -> None:
    says("A pixel.")
    data: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    link: Any = {"type": "image", "source": {"type": "url", "url": "https://1.1.1.1/a.png"}}
    messages: Any = [{"role": "user", "content": [data, link, {"type": "text", "text": "What is it?"}]}]
    client.messages.create(model=model, max_tokens=50, messages=messages)
    sent = json.dumps(upstream.requests[-1].body)
    assert PIXEL in sent
    assert "https://1.1.1.1/a.png" in sent


def test_structured_outputs(client: Anthropic, model: str, upstream: WireServer, says: Answering) -> None:
    says('{"city": "Köln",', ' "days": 3}')
    reply = client.messages.parse(model=model, max_tokens=50, messages=HELLO, output_format=Place)
    assert reply.parsed_output == Place(city="Köln", days=3)
    sent = upstream.requests[-1].body
    if model == "gpt":
        assert sent["response_format"]["json_schema"]["schema"]["required"] == ["city", "days"]
    else:
        assert sent["output_config"]["format"]["schema"]["required"] == ["city", "days"]


@pytest.mark.parametrize("stop", ["length", "max_tokens"])
def test_a_cut_answer_says_so(client: Anthropic, model: str, says: Answering, stop: str) -> None:
    says("too lon", stop={"gpt": "length", "claude": "max_tokens"}[model])
    assert client.messages.create(model=model, max_tokens=5, messages=HELLO).stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("status", "kind", "raised"),
    [
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.APIStatusError),
        (400, "invalid_request_error", anthropic.BadRequestError),
    ],
)
def test_errors_are_anthropics(
    client: Anthropic, model: str, says: Answering, status: int, kind: str, raised: type[anthropic.APIStatusError]
) -> None:
    says(status=status, error=(kind, "scripted"))
    with pytest.raises(raised) as caught:
        client.messages.create(model=model, max_tokens=5, messages=HELLO)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert caught.value.response.headers["x-request-id"]


def test_an_error_within_a_stream_is_an_event(client: Anthropic, model: str, says: Answering) -> None:
    says("a", "b", "c", error_after=4, error=("overloaded_error", "Overloaded"))
    with pytest.raises(anthropic.APIStatusError) as caught:
        for _ in client.messages.create(model=model, max_tokens=5, messages=HELLO, stream=True):
            pass
    body: Any = caught.value.body
    assert body["error"]["message"] == "Overloaded"


def test_a_stream_that_is_cut_is_booked_as_far_as_it_came(
    client: Anthropic, worker: RunningWorker, model: str, upstream: WireServer, says: Answering
) -> None:
    says(*("x",) * 30, cut_after=20)
    with pytest.raises(anthropic.APIStatusError):
        for _ in client.messages.create(model=model, max_tokens=99, messages=HELLO, stream=True):
            pass
    charge = upstream.ledger[-1]
    wanted = (model, charge.output_tokens)
    row = worker.until(
        lambda: next((row for row in worker.rows() if (row["endpoint"], row.get("output_tokens")) == wanted), None)
    )
    assert row["tags"]["estimated"] == "true"
    if model == "claude":  # Anthropic tells the input before the first word
        assert row["input_tokens"] == charge.input_tokens


def test_wrong_keys_and_unknown_models(worker: RunningWorker, client: Anthropic) -> None:
    with (
        Anthropic(base_url=worker.url, api_key="lk_0123456789abcdef_wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="gpt", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", max_tokens=5, messages=HELLO)


def test_what_the_upstream_cannot_do_is_told_as_anthropic_would(client: Anthropic, upstreams: Any) -> None:
    search: Any = {"type": "web_search_20260318", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match="runs at Anthropic only"):
        client.messages.create(model="gpt", max_tokens=5, messages=HELLO, tools=[search])
    assert search not in [request.body.get("tools") for request in upstreams["gpt"].requests]


def test_the_sdks_own_retries(
    worker: RunningWorker, token: str, model: str, upstream: WireServer, says: Answering
) -> None:
    before = len(upstream.requests)
    says(status=429, error=("rate_limit_error", "slow down"), headers={"retry-after": "0"})
    says("At last")
    with Anthropic(base_url=worker.url, api_key=token, max_retries=2, timeout=60) as patient:
        reply = patient.messages.create(model=model, max_tokens=5, messages=HELLO)
    assert reply.content[0].type == "text"
    assert len(upstream.requests) == before + 2


def test_models_are_the_routes(client: Anthropic) -> None:
    models = list(client.models.list())
    assert {found.id for found in models} == {"gpt", "claude", "guarded"}
    assert {found.type for found in models} == {"model"}


def test_a_guarded_stream_goes_through_chat_and_keeps_what_anthropic_knows(
    client: Anthropic, upstreams: dict[str, WireServer]
) -> None:
    """A guard that reads a stream has it as chat chunks; thinking, its signature and cache breakpoints survive that."""
    server = upstreams["claude"]
    server.forget()
    asked: dict[str, Any] = {"model": "guarded", "max_tokens": 4000, "tools": [WEATHER]}
    asked["thinking"] = {"type": "adaptive"}
    server.script(Answer(pieces=("Write to ", "ann@", "example.org", "."), thinking="Hm. ", tools=CALLS[:1]))
    with client.messages.stream(messages=HELLO, **asked) as stream:
        reply: Any = stream.get_final_message()
    assert [block.type for block in reply.content] == ["thinking", "text", "tool_use"]
    assert "ann@example.org" not in reply.content[1].text
    assert reply.content[0].signature == signature_of("Hm. ")
    assert reply.content[2].input == {"city": "Köln"}
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": "toolu_01", "content": "sunny"}
    result["cache_control"] = {"type": "ephemeral"}
    turns: Any = [*HELLO, {"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    server.script(Answer(pieces=("Fine",)))
    with client.messages.stream(messages=turns, **asked) as stream:
        stream.until_done()
    sent = server.requests[-1].body
    assert sent["messages"][1]["content"][0]["signature"] == signature_of("Hm. ")
    assert sent["messages"][2]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert sent["thinking"] == {"type": "adaptive"}
    assert server.refused == []

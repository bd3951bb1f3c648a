"""Bedrock and Vertex AI behind a whole gateway: both official SDKs against them, signed in as in production.

The signatures are checked by AWS's own library, the tokens by the service that gave them over TLS to whom the service
account's public key proved; rows are compared with the ledgers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI
from tests.support.provider_calls import PIXEL
from tests.support.upstreams import bedrock, vertex
from tests.support.upstreams.bedrock import BedrockServer
from tests.support.upstreams.vertex import TokenServer, VertexServer
from tests.support.upstreams.wire import KEY, Answer, Call, WireServer, running
from tests.support.wire import certificate
from tests.support.worker import PRICE, RunningWorker, running_worker

HELLO: Any = [{"role": "user", "content": "Hello"}]
FUNCTION: Any = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLS = (Call("get_weather", {"city": "Köln"}, id="c1"), Call("get_weather", {"city": "Rome"}, id="c2"))
ROUTES = {
    "bedrock": ("bedrock", "eu.anthropic.claude-sonnet-5-5"),
    "temporary": (
        "temporary",
        "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude-opus-5",
    ),
    "by-key": ("by-key", "eu.amazon.nova-2-lite-v1:0"),
    "titan": ("bedrock", "amazon.titan-embed-text-v2:0"),
    "cohere": ("bedrock", "cohere.embed-v4:0"),
    "gemini": ("vertex", "gemini-3.8-flash"),
    "claude": ("vertex", "claude-sonnet-4-5@20250929"),
    "embedding": ("vertex", "text-embedding-005"),
    "embedding-2": ("vertex", "gemini-embedding-2"),
}


@dataclass
class Clouds:
    """What plays the clouds."""

    bedrock: BedrockServer
    temporary: BedrockServer
    vertex: VertexServer
    tokens: TokenServer

    def of(self, route: str) -> WireServer:
        provider = ROUTES[route][0]
        return {"vertex": self.vertex, "temporary": self.temporary}.get(provider, self.bedrock)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clouds")


@pytest.fixture(scope="module")
def clouds(folder: Path) -> Iterator[Clouds]:
    with ExitStack() as stack:
        tokens = TokenServer(*certificate(folder))
        stack.callback(tokens.close)
        aws, temporary = (stack.enter_context(running(BedrockServer)) for _ in range(2))
        temporary.session_token = bedrock.SESSION_TOKEN
        google = stack.enter_context(running(VertexServer))
        google.tokens = tokens
        yield Clouds(aws, temporary, google, tokens)


def providers_of(clouds: Clouds, folder: Path) -> dict[str, Any]:
    secrets = {"key": KEY, "id": bedrock.ACCESS_KEY, "secret": bedrock.SECRET_KEY}
    for name, value in secrets.items():
        (folder / name).write_text(value)
    process = {
        "Version": 1,
        "AccessKeyId": bedrock.ACCESS_KEY,
        "SecretAccessKey": bedrock.SECRET_KEY,
        "SessionToken": bedrock.SESSION_TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    }
    (folder / "aws.json").write_text(json.dumps(process, indent=2))
    (folder / "google.json").write_text(json.dumps(clouds.tokens.key_file(), indent=2))
    in_region = {"kind": "bedrock", "location": bedrock.REGION}
    aws = {"access_key_id": f"file:{folder}/id", "secret_access_key": f"file:{folder}/secret"}
    return {
        "bedrock": {**in_region, "url": clouds.bedrock.url, "aws": aws},
        "temporary": {**in_region, "url": clouds.temporary.url, "credentials": f"file:{folder}/aws.json"},
        "by-key": {**in_region, "url": clouds.bedrock.url, "api_key": f"file:{folder}/key"},
        "vertex": {
            "kind": "vertex",
            "project": vertex.PROJECT,
            "location": vertex.LOCATION,
            "url": clouds.vertex.url,
            "credentials": f"file:{folder}/google.json",
            "tls": {"ca_file": str(folder / "localhost.pem")},
        },
    }


@pytest.fixture(scope="module")
def worker(clouds: Clouds, folder: Path) -> Iterator[RunningWorker]:
    routes = [
        {
            "name": name,
            "targets": [{"provider": provider, "model": model, "price": PRICE}],
            "retry": {"attempts": 1},
            "breaker": {"failures": 100},
        }
        for name, (provider, model) in ROUTES.items()
    ]
    routes.append({**routes[0], "name": "patient", "retry": {"attempts": 2, "backoff_s": 0.01}})
    with running_worker(folder, providers=providers_of(clouds, folder), routes=routes) as running_one:
        yield running_one


@pytest.fixture
def gpt(worker: RunningWorker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def sdk(worker: RunningWorker) -> Iterator[Anthropic]:
    with Anthropic(base_url=worker.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(params=["bedrock", "temporary", "by-key", "gemini", "claude"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream(clouds: Clouds, model: str) -> Iterator[WireServer]:
    server = clouds.of(model)
    server.forget()
    yield server
    assert server.refused == []


def booked(worker: RunningWorker, upstream: WireServer) -> None:
    """The newest row says what the upstream's newest charge says."""
    charge = upstream.ledger[-1]
    wanted = (charge.input_tokens, charge.output_tokens)

    def newest() -> tuple[int | None, int | None]:
        row = worker.rows()[-1]
        return row.get("input_tokens"), row.get("output_tokens")

    worker.until(lambda: worker.rows() and newest() == wanted)


def test_openais_sdk(gpt: OpenAI, worker: RunningWorker, model: str, upstream: WireServer) -> None:
    upstream.script(Answer(pieces=("Hello", " you", f" from {model}"), cached=3), Answer(pieces=("a", "b", "c", "d")))
    image: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    reply = gpt.chat.completions.create(model=model, messages=asked)
    assert reply.choices[0].message.content == f"Hello you from {model}"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 3
    booked(worker, upstream)
    stream = gpt.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "abcd"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == upstream.ledger[-1].output_tokens
    booked(worker, upstream)


def test_openais_tools_there_and_back(gpt: OpenAI, model: str, upstream: WireServer) -> None:
    upstream.script(Answer(pieces=(), tools=CALLS), Answer())
    tools: Any = [{"type": "function", "function": FUNCTION}]
    message = gpt.chat.completions.create(model=model, messages=HELLO, tools=tools).choices[0].message
    assert message.tool_calls is not None
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [call.arguments for call in CALLS]
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    turns: Any = [*HELLO, message.model_dump(exclude_none=True), *results]
    assert gpt.chat.completions.create(model=model, messages=turns, tools=tools).choices[0].message.content


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropics_sdk(
    sdk: Anthropic, worker: RunningWorker, model: str, upstream: WireServer, streamed: bool
) -> None:
    tools: Any = [{"name": "get_weather", "input_schema": FUNCTION["parameters"]}]
    asked: dict[str, Any] = {"model": model, "max_tokens": 2048, "tools": tools}
    if model in ("bedrock", "claude"):  # whose thinking comes back with its signature
        asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    upstream.script(Answer(pieces=(), thinking="Two calls.", tools=CALLS), Answer(pieces=("Sun", "ny")))
    if streamed:
        with sdk.messages.stream(messages=HELLO, **asked) as stream:
            reply: Any = stream.get_final_message()
    else:
        reply = sdk.messages.create(messages=HELLO, **asked)
    booked(worker, upstream)
    uses = [block for block in reply.content if block.type == "tool_use"]
    assert [(use.id, use.input) for use in uses] == [(call.id, call.arguments) for call in CALLS]
    assert [block.thinking for block in reply.content if block.type == "thinking"] == ["Two calls."]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    turns: Any = [*HELLO, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    final: Any = sdk.messages.create(messages=turns, **asked)
    assert final.content[0].text == "Sunny"
    if model in ("bedrock", "claude"):
        assert bedrock.signature_of("Two calls.") in json.dumps(upstream.requests[-1].body)


def test_an_error_is_told_in_the_callers_format(gpt: OpenAI, sdk: Anthropic, model: str, upstream: WireServer) -> None:
    wrong = ("ValidationException" if "claude" not in model else "invalid_request_error", "messages: too odd")
    upstream.script(Answer(status=400, error=wrong), Answer(status=400, error=wrong))
    with pytest.raises(openai.BadRequestError, match="too odd"):
        gpt.chat.completions.create(model=model, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError) as caught:
        sdk.messages.create(model=model, max_tokens=9, messages=HELLO)
    told: Any = caught.value.body
    assert told["type"] == "error"
    assert "too odd" in told["error"]["message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_throttling_is_asked_again(worker: RunningWorker, clouds: Clouds, streamed: bool) -> None:
    clouds.bedrock.forget()
    limited = Answer(status=429, error=("ThrottlingException", "Too many requests, please wait before trying again."))
    clouds.bedrock.script(limited, Answer(pieces=("At", " last")))
    reply = worker.chat({"model": "patient", "messages": HELLO, "stream": streamed})
    assert reply.status_code == 200
    assert "last" in reply.text
    row = worker.row_of(reply)
    (attempt,) = json.loads(row["tags"]["attempts"])
    assert (attempt["outcome"], attempt["status"], attempt["cost_usd"]) == ("rate_limited", 429, "0.000000000")


def test_a_stream_that_is_cut_is_booked_as_far_as_it_came(
    worker: RunningWorker, model: str, upstream: WireServer
) -> None:
    upstream.script(Answer(pieces=("x",) * 40, cut_after=25))
    reply = worker.chat({"model": model, "messages": HELLO, "stream": True})
    assert "error" in reply.text.splitlines()[-2]
    row = worker.row_of(reply)
    assert row["output_tokens"] == upstream.ledger[-1].output_tokens
    assert row["tags"]["estimated"] == "true"


@pytest.mark.parametrize(
    ("name", "status"), [("modelStreamErrorException", 502), ("throttlingException", 429), ("validationException", 400)]
)
def test_an_exception_within_bedrocks_stream_is_told_in_it(
    worker: RunningWorker, clouds: Clouds, name: str, status: int
) -> None:
    clouds.bedrock.forget()
    clouds.bedrock.script(Answer(pieces=("x",) * 9, error_after=5, error=(name, "It broke."), event_delay_s=0.02))
    reply = worker.chat({"model": "bedrock", "messages": HELLO, "stream": True})
    assert reply.status_code == 200
    (told,) = [json.loads(line[6:]) for line in reply.text.splitlines() if '"error"' in line]
    assert "It broke." in told["error"]["message"]
    row = worker.row_of(reply)
    assert (row["status_code"], row["tags"]["estimated"]) == (status, "true")


@pytest.mark.parametrize("route", ["titan", "cohere", "embedding", "embedding-2"])
def test_embeddings(worker: RunningWorker, gpt: OpenAI, clouds: Clouds, route: str) -> None:
    server = clouds.of(route)
    server.forget()
    several = route in ("cohere", "embedding")
    vectors = gpt.embeddings.create(model=route, input=["one", "two"] if several else "one", dimensions=256)
    assert [len(item.embedding) for item in vectors.data] == [3, 3] if several else [3]
    assert server.refused == []
    if route == "cohere":  # its replies count no tokens
        assert worker.until(lambda: worker.rows()[-1])["tags"]["estimated"] == "true"
    else:
        booked(worker, server)


def test_tokens_are_counted_where_anthropic_does(sdk: Anthropic, clouds: Clouds) -> None:
    clouds.vertex.forget()
    assert sdk.messages.count_tokens(model="claude", messages=HELLO).input_tokens > 0
    assert clouds.vertex.requests[-1].body["model"] == "claude-sonnet-4-5@20250929"
    assert clouds.vertex.refused == []


def test_one_sign_in_serves_all_requests(clouds: Clouds, worker: RunningWorker) -> None:
    for _ in range(3):
        assert worker.chat({"model": "gemini", "messages": HELLO}).status_code == 200
    assert len(clouds.tokens.given) == 1


def test_a_reload_keeps_the_token_and_closes_what_was_opened_to_compare(worker: RunningWorker, clouds: Clouds) -> None:
    mark = {**worker.config["routes"][0], "name": "reloaded"}
    worker.reload(routes=[*worker.config["routes"], mark])
    with worker.client() as client:
        worker.until(lambda: "reloaded" in client.get("/v1/models").text)
    for route in ("gemini", "reloaded"):
        assert worker.chat({"model": route, "messages": HELLO}).status_code == 200
    assert len(clouds.tokens.given) == 1


def test_no_secret_is_in_the_log(worker: RunningWorker, clouds: Clouds) -> None:
    pem = clouds.tokens.key_file()["private_key"].splitlines()[1]
    told = worker.log + json.dumps(worker.rows())
    for secret in (KEY, bedrock.SECRET_KEY, bedrock.SESSION_TOKEN, pem, *clouds.tokens.given):
        assert secret not in told

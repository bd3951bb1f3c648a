"""Every provider with a format of its own behind one whole gateway: both official SDKs against each, rows compared with
the upstreams' ledgers.

Clouds are signed in to as in production: Bedrock's signatures are checked by AWS's own library, Vertex AI's tokens by
the service that gave them over TLS to whom the service account's public key proved.
"""

from __future__ import annotations

import json
import threading
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
from tests.support.upstreams import bedrock, gemini, vertex
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.bedrock import BedrockServer
from tests.support.upstreams.cohere import PLAN, CohereServer
from tests.support.upstreams.gemini import GeminiServer
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
    "gemini": ("gemini", "gemini-model"),
    "cohere": ("cohere", "cohere-model"),
    "bedrock": ("bedrock", "eu.anthropic.claude-sonnet-5-5"),
    "temporary": (
        "temporary",
        "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude-opus-5",
    ),
    "by-key": ("by-key", "eu.amazon.nova-2-lite-v1:0"),
    "titan": ("bedrock", "amazon.titan-embed-text-v2:0"),
    "bedrock-cohere": ("bedrock", "cohere.embed-v4:0"),
    "vertex-gemini": ("vertex", "gemini-3.8-flash"),
    "vertex-claude": ("vertex", "claude-sonnet-4-5@20250929"),
    "embedding": ("vertex", "text-embedding-005"),
    "embedding-2": ("vertex", "gemini-embedding-2"),
}
CHATTING = ("gemini", "cohere", "bedrock", "temporary", "by-key", "vertex-gemini", "vertex-claude")
SIGNED_THINKING = ("bedrock", "vertex-claude")  # asked for with a budget, and sent back with its signature
BAD_REQUEST = {"gemini": "INVALID_ARGUMENT", "cohere": "", "vertex-claude": "invalid_request_error"}


@dataclass
class Upstreams:
    """What plays the providers, by the provider's name, and who gives Vertex AI's tokens."""

    servers: dict[str, WireServer]
    tokens: TokenServer

    def of(self, route: str) -> WireServer:
        return self.servers[ROUTES[route][0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clouds")


@pytest.fixture(scope="module")
def upstreams(folder: Path) -> Iterator[Upstreams]:
    with ExitStack() as stack:
        tokens = TokenServer(*certificate(folder))
        stack.callback(tokens.close)
        aws, temporary = (stack.enter_context(running(BedrockServer)) for _ in range(2))
        temporary.session_token = bedrock.SESSION_TOKEN
        google = stack.enter_context(running(VertexServer))
        google.tokens = tokens
        servers: dict[str, WireServer] = {
            "gemini": stack.enter_context(running(GeminiServer)),
            "cohere": stack.enter_context(running(CohereServer)),
            "anthropic": stack.enter_context(running(AnthropicServer)),
            "bedrock": aws,
            "by-key": aws,
            "temporary": temporary,
            "vertex": google,
        }
        yield Upstreams(servers, tokens)


def providers_of(upstreams: Upstreams, folder: Path) -> dict[str, Any]:
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
    (folder / "google.json").write_text(json.dumps(upstreams.tokens.key_file(), indent=2))
    url = {name: server.url for name, server in upstreams.servers.items()}
    by_key = {"api_key": f"file:{folder}/key"}
    in_region = {"kind": "bedrock", "location": bedrock.REGION}
    aws = {"access_key_id": f"file:{folder}/id", "secret_access_key": f"file:{folder}/secret"}
    return {
        **{name: {"kind": name, "url": url[name], **by_key} for name in ("gemini", "cohere", "anthropic")},
        "bedrock": {**in_region, "url": url["bedrock"], "aws": aws},
        "temporary": {**in_region, "url": url["temporary"], "credentials": f"file:{folder}/aws.json"},
        "by-key": {**in_region, "url": url["bedrock"], **by_key},
        "vertex": {
            "kind": "vertex",
            "project": vertex.PROJECT,
            "location": vertex.LOCATION,
            "url": url["vertex"],
            "credentials": f"file:{folder}/google.json",
            "tls": {"ca_file": str(folder / "localhost.pem")},
        },
    }


@pytest.fixture(scope="module")
def worker(upstreams: Upstreams, folder: Path) -> Iterator[RunningWorker]:
    def target(provider: str, model: str, tier: int = 0) -> dict[str, Any]:
        return {"provider": provider, "model": model, "price": PRICE, "tier": tier}

    once: dict[str, Any] = {"retry": {"attempts": 1}, "breaker": {"failures": 100}}
    routes = [{"name": name, "targets": [target(*where)], **once} for name, where in ROUTES.items()]
    patient = {"retry": {"attempts": 2, "backoff_s": 0.01}, "breaker": {"failures": 100}}
    routes.append({"name": "patient", "targets": [target(*ROUTES["bedrock"])], **patient})
    either = [target("anthropic", "anthropic-model"), target(*ROUTES["gemini"], 1)]
    routes.append({"name": "either", "targets": either, **once})
    with running_worker(folder, providers=providers_of(upstreams, folder), routes=routes) as running_one:
        yield running_one


@pytest.fixture(scope="module")  # to make one takes longer than most of its calls
def gpt(worker: RunningWorker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")  # to make one takes longer than most of its calls
def sdk(worker: RunningWorker) -> Iterator[Anthropic]:
    with Anthropic(base_url=worker.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(params=CHATTING)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream(upstreams: Upstreams, model: str) -> Iterator[WireServer]:
    server = upstreams.of(model)
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
    if model == "gemini":
        assert gemini.signature_of(CALLS[0]) in json.dumps(upstream.requests[-1].body)


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropics_sdk(
    sdk: Anthropic, worker: RunningWorker, model: str, upstream: WireServer, streamed: bool
) -> None:
    tools: Any = [{"name": "get_weather", "input_schema": FUNCTION["parameters"]}]
    asked: dict[str, Any] = {"model": model, "max_tokens": 2048, "tools": tools}
    if model in SIGNED_THINKING:
        asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    thinking = "" if model == "cohere" else "Two calls."  # Cohere tells of its plan instead
    upstream.script(Answer(pieces=(), thinking=thinking, tools=CALLS), Answer(pieces=("Sun", "ny")))
    if streamed:
        with sdk.messages.stream(messages=HELLO, **asked) as stream:
            reply: Any = stream.get_final_message()
    else:
        reply = sdk.messages.create(messages=HELLO, **asked)
    booked(worker, upstream)
    uses = [block for block in reply.content if block.type == "tool_use"]
    assert [(use.id, use.input) for use in uses] == [(call.id, call.arguments) for call in CALLS]
    assert [block.thinking.strip() for block in reply.content if block.type == "thinking"] == [thinking or PLAN]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    turns: Any = [*HELLO, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    final: Any = sdk.messages.create(messages=turns, **asked)
    assert final.content[0].text == "Sunny"
    if model == "gemini":
        assert gemini.signature_of(CALLS[0]) in json.dumps(upstream.requests[-1].body)
    if model in SIGNED_THINKING:
        assert bedrock.signature_of("Two calls.") in json.dumps(upstream.requests[-1].body)


def test_an_error_is_told_in_the_callers_format(gpt: OpenAI, sdk: Anthropic, model: str, upstream: WireServer) -> None:
    wrong = (BAD_REQUEST.get(model, "ValidationException"), "messages: too odd")
    upstream.script(Answer(status=400, error=wrong), Answer(status=400, error=wrong))
    with pytest.raises(openai.BadRequestError, match="too odd"):
        gpt.chat.completions.create(model=model, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError) as caught:
        sdk.messages.create(model=model, max_tokens=9, messages=HELLO)
    told: Any = caught.value.body
    assert told["type"] == "error"
    assert "too odd" in told["error"]["message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_throttling_is_asked_again(worker: RunningWorker, upstreams: Upstreams, streamed: bool) -> None:
    upstreams.of("bedrock").forget()
    limited = Answer(status=429, error=("ThrottlingException", "Too many requests, please wait before trying again."))
    upstreams.of("bedrock").script(limited, Answer(pieces=("At", " last")))
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
    assert (row["endpoint"], row["output_tokens"]) == (model, upstream.ledger[-1].output_tokens)
    assert row["tags"]["estimated"] == "true"


@pytest.mark.parametrize(
    ("name", "status"), [("modelStreamErrorException", 502), ("throttlingException", 429), ("validationException", 400)]
)
def test_an_exception_within_bedrocks_stream_is_told_in_it(
    worker: RunningWorker, upstreams: Upstreams, name: str, status: int
) -> None:
    upstreams.of("bedrock").forget()
    heard = threading.Event()
    upstreams.of("bedrock").script(
        Answer(pieces=("x",) * 9, error_after=5, error=(name, "It broke."), error_once=heard)
    )
    asked = {"model": "bedrock", "messages": HELLO, "stream": True}
    lines: list[str] = []
    with worker.client() as client, client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        for line in reply.iter_lines():
            lines.append(line)
            heard.set()
    assert reply.status_code == 200
    (told,) = [json.loads(line[6:]) for line in lines if '"error"' in line]
    assert "It broke." in told["error"]["message"]
    row = worker.row_of(reply)
    assert (row["status_code"], row["tags"]["estimated"]) == (status, "true")


@pytest.mark.parametrize(
    ("route", "several"),
    [
        ("gemini", True),
        ("cohere", True),
        ("titan", False),
        ("bedrock-cohere", True),
        ("embedding", True),
        ("embedding-2", False),
    ],
)
def test_embeddings(worker: RunningWorker, gpt: OpenAI, upstreams: Upstreams, route: str, several: bool) -> None:
    server = upstreams.of(route)
    server.forget()
    vectors = gpt.embeddings.create(model=route, input=["one", "two"] if several else "one", dimensions=256)
    assert [len(item.embedding) for item in vectors.data] == [3, 3] if several else [3]
    assert server.refused == []
    if route == "bedrock-cohere":  # its replies count no tokens
        row = worker.until(lambda: next((row for row in worker.rows() if row["endpoint"] == route), {}))
        assert row["tags"]["estimated"] == "true"
    else:
        booked(worker, server)


def test_cohere_ranks(worker: RunningWorker, upstreams: Upstreams) -> None:
    upstreams.of("cohere").forget()
    with worker.client() as client:
        ranked = client.post("/v1/rerank", json={"model": "cohere", "query": "q", "documents": ["a", "b"]})
    assert [result["index"] for result in ranked.json()["results"]] == [0, 1]
    assert upstreams.of("cohere").refused == []


@pytest.mark.parametrize("streamed", [False, True])
def test_another_provider_answers_where_the_first_is_overloaded(
    sdk: Anthropic, upstreams: Upstreams, streamed: bool
) -> None:
    upstreams.servers["anthropic"].script(Answer(status=529, error=("overloaded_error", "Overloaded")))
    upstreams.of("gemini").script(Answer(pieces=("From", " Gemini")))
    asked: dict[str, Any] = {"model": "either", "max_tokens": 60, "messages": HELLO}
    if streamed:
        with sdk.messages.stream(**asked) as stream:
            assert stream.get_final_text() == "From Gemini"
    else:
        reply: Any = sdk.messages.create(**asked)
        assert reply.content[0].text == "From Gemini"


def test_tokens_are_counted_where_anthropic_does(sdk: Anthropic, upstreams: Upstreams) -> None:
    upstreams.of("vertex-claude").forget()
    assert sdk.messages.count_tokens(model="vertex-claude", messages=HELLO).input_tokens > 0
    assert upstreams.of("vertex-claude").requests[-1].body["model"] == "claude-sonnet-4-5@20250929"
    assert upstreams.of("vertex-claude").refused == []


def test_one_sign_in_serves_all_requests(upstreams: Upstreams, worker: RunningWorker) -> None:
    for _ in range(3):
        assert worker.chat({"model": "vertex-gemini", "messages": HELLO}).status_code == 200
    assert len(upstreams.tokens.given) == 1


def test_a_reload_keeps_the_token_and_closes_what_was_opened_to_compare(
    worker: RunningWorker, upstreams: Upstreams
) -> None:
    mark = {
        **worker.config["routes"][0],
        "name": "reloaded",
        "targets": worker.config["routes"][list(ROUTES).index("vertex-gemini")]["targets"],
    }
    worker.reload(routes=[*worker.config["routes"], mark])
    with worker.client() as client:
        worker.until(lambda: "reloaded" in client.get("/v1/models").text)
    for route in ("vertex-gemini", "reloaded"):
        assert worker.chat({"model": route, "messages": HELLO}).status_code == 200
    assert len(upstreams.tokens.given) == 1


def test_no_secret_is_in_the_log(worker: RunningWorker, upstreams: Upstreams) -> None:
    pem = upstreams.tokens.key_file()["private_key"].splitlines()[1]
    told = worker.log + json.dumps(worker.rows())
    for secret in (KEY, bedrock.SECRET_KEY, bedrock.SESSION_TOKEN, pem, *upstreams.tokens.given):
        assert secret not in told

"""OpenAI's official SDK, unmodified, against the gateway: in front of OpenAI's format, and in front of Anthropic's."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.openai import AzureServer, MistralServer, OpenAIServer
from tests.support.upstreams.wire import KEY, Answer, Call, Charge, WireServer, running
from tests.support.worker import PRICE, RunningWorker, running_worker

PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\x00" * 32).decode()
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
CALLS = (Call("get_weather", {"city": "Köln", "days": 2}), Call("get_weather", {"city": "Rome"}, id="toolu_02"))


class Place(BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, WireServer]]:
    with (
        running(OpenAIServer) as gpt,
        running(AnthropicServer) as claude,
        running(AzureServer) as azure,
        running(MistralServer) as mistral,
    ):
        yield {"gpt": gpt, "claude": claude, "azure": azure, "mistral": mistral}


@pytest.fixture(scope="module")
def worker(upstreams: dict[str, WireServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "key").write_text(KEY)
    key = f"file:{folder / 'key'}"
    operations = ["chat", "completions", "embeddings", "rerank"]
    providers = {
        "gpt": {"kind": "openai", "url": upstreams["gpt"].url, "api_key": key, "operations": operations},
        "real": {"kind": "openai", "url": upstreams["gpt"].url, "api_key": key, "operations": ["responses"]},
        **{
            name: {"kind": kind, "url": upstreams[name].url, "api_key": key}
            for name, kind in {"claude": "anthropic", "azure": "azure", "mistral": "mistral"}.items()
        },
    }
    routes = [
        {
            "name": name,
            "targets": [{"provider": name, "model": f"{name}-model", "price": PRICE, "max_output_tokens": 500}],
            "retry": {"attempts": 1},
            "breaker": {"failures": 100},
        }
        for name in providers
    ]
    with running_worker(folder, providers=providers, routes=routes, require_keys=True) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def token(worker: RunningWorker) -> str:
    return worker.key()


@pytest.fixture(scope="module")  # to make one takes longer than most of its calls
def client(worker: RunningWorker, token: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{worker.url}/v1", api_key=token, max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(params=["gpt", "claude"])  # a test may ask for the others too
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream(upstreams: dict[str, WireServer], model: str) -> Iterator[WireServer]:
    server = upstreams[model]
    before = len(server.refused)
    yield server
    assert server.refused[before:] == []


Answering = Callable[..., None]


@pytest.fixture
def says(upstream: WireServer) -> Answering:
    def script(*pieces: str, **more: Any) -> None:
        upstream.script(Answer(pieces=pieces, **more))

    return script


every_upstream = pytest.mark.parametrize("model", ["gpt", "claude", "azure", "mistral"], indirect=True)


def charges(server: WireServer) -> list[Charge]:
    """The ledger, once it is complete."""
    RunningWorker.until(lambda: server.settled)
    return server.ledger


class Marked:
    """Calls of one test, so that its rows are told from those of others that are still on their way."""

    def __init__(self, client: OpenAI, worker: RunningWorker) -> None:
        self._worker = worker
        self._mark = secrets.token_hex(8)
        self.client = client.with_options(default_headers={"x-llmops-tags": f"mark={self._mark}"})

    def rows(self, count: int) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            return [row for row in self._worker.rows() if dict(row["tags"] or ()).get("mark") == self._mark]

        RunningWorker.until(lambda: len(found()) >= count)
        assert len(found()) == count
        return sorted(found(), key=lambda row: str(row["request_id"]))  # which begins with the time


@pytest.fixture
def marked(client: OpenAI, worker: RunningWorker) -> Marked:
    return Marked(client, worker)


# --- chat ------------------------------------------------------------------------------------------------------------


@every_upstream
def test_chat(client: OpenAI, model: str, upstream: WireServer, says: Answering) -> None:
    says("Hello", " you", cached=3)
    reply = client.chat.completions.create(model=model, messages=ASKED, temperature=0.5, stop=["END"], max_tokens=40)
    assert (reply.object, reply.choices[0].message.role) == ("chat.completion", "assistant")
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Hello you", "stop")
    charge = charges(upstream)[-1]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (charge.input_tokens, charge.output_tokens)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 3
    body = upstream.requests[-1].body
    limit = body["max_completion_tokens" if model == "azure" else "max_tokens"]
    assert (body["model"], limit, body["temperature"]) == (f"{model}-model", 40, 0.5)


def test_the_asynchronous_client_and_the_id_to_report(
    worker: RunningWorker, token: str, model: str, says: Answering
) -> None:
    async def ask() -> tuple[str, str | None]:
        async with AsyncOpenAI(base_url=f"{worker.url}/v1", api_key=token, max_retries=0, timeout=60) as client:
            says("Hello")
            whole = await client.chat.completions.create(model=model, messages=ASKED)
            says("Hel", "lo")
            texts = ""
            async with client.chat.completions.stream(model=model, messages=ASKED) as stream:
                async for event in stream:
                    texts += event.delta if event.type == "content.delta" else ""
        return texts, whole._request_id

    texts, request_id = asyncio.run(ask())
    assert texts == "Hello"
    worker.until(lambda: request_id in [row["request_id"] for row in worker.rows()])


@every_upstream
@pytest.mark.parametrize("include", [True, False])
def test_a_stream(client: OpenAI, model: str, upstream: WireServer, says: Answering, include: bool) -> None:
    before = len(charges(upstream))
    says("Hel", "lo ", "ünd", " 👋", "\n\n", "data: x")
    options: Any = {"stream_options": {"include_usage": True}} if include else {}
    chunks = list(client.chat.completions.create(model=model, messages=ASKED, stream=True, **options))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "Hello ünd 👋\n\ndata: x"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason] == [
        "stop"
    ]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(usages) == (1 if include else 0)
    assert all(chunk.choices for chunk in chunks) is not include
    assert len(charges(upstream)) == before + 1
    if include:
        charge = charges(upstream)[-1]
        assert (usages[0].prompt_tokens, usages[0].completion_tokens) == (charge.input_tokens, charge.output_tokens)


def test_the_limit_of_the_target_holds_whatever_is_asked(
    client: OpenAI, model: str, upstream: WireServer, says: Answering
) -> None:
    for asked in ({}, {"max_tokens": 10_000}, {"max_completion_tokens": 10_000}):
        says("x")
        client.chat.completions.create(model=model, messages=ASKED, **asked)  # type: ignore[call-overload]
        assert upstream.requests[-1].body["max_tokens"] == 500


def test_why_it_stopped(client: OpenAI, model: str, says: Answering) -> None:
    says("cut", stop="length" if model == "gpt" else "max_tokens")
    reply = client.chat.completions.create(model=model, messages=ASKED)
    assert reply.choices[0].finish_reason == "length"


@every_upstream
def test_tools_and_their_results(client: OpenAI, model: str, upstream: WireServer, says: Answering) -> None:
    says("I'll look.", tools=CALLS)
    reply = client.chat.completions.create(model=model, messages=ASKED, tools=[WEATHER], tool_choice="auto")
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    assert [json.loads(call.function.arguments) for call in message.tool_calls if call.type == "function"] == [
        {"city": "Köln", "days": 2},
        {"city": "Rome"},
    ]
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": f"sunny {number}"}
        for number, call in enumerate(message.tool_calls)
    ]
    says("Sunny in both.")
    final = client.chat.completions.create(model=model, messages=[*ASKED, message, *results], tools=[WEATHER])
    assert final.choices[0].message.content == "Sunny in both."
    sent = json.dumps(upstream.requests[-1].body)
    assert "sunny 0" in sent
    assert "sunny 1" in sent


@every_upstream
def test_streamed_tools(client: OpenAI, model: str, says: Answering) -> None:
    says(tools=CALLS)
    with client.chat.completions.stream(model=model, messages=ASKED, tools=[WEATHER]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls] == [
        ("get_weather", {"city": "Köln", "days": 2}),
        ("get_weather", {"city": "Rome"}),
    ]
    assert len({call.id for call in message.tool_calls}) == 2


@pytest.mark.parametrize("choice", ["required", "none", {"type": "function", "function": {"name": "get_weather"}}])
def test_how_tools_may_be_chosen(client: OpenAI, model: str, says: Answering, choice: Any) -> None:
    says("x")
    reply = client.chat.completions.create(
        model=model, messages=ASKED, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
    )
    assert reply.choices[0].message.content == "x"


@every_upstream
def test_structured_answers(client: OpenAI, model: str, says: Answering) -> None:
    says('{"city": "Rome",', ' "days": 3}')
    parsed = client.chat.completions.parse(model=model, messages=ASKED, response_format=Place)
    assert parsed.choices[0].message.parsed == Place(city="Rome", days=3)


def test_structured_answers_in_a_stream(client: OpenAI, model: str, says: Answering) -> None:
    says('{"city": "Rome",', ' "days": 3}')
    with client.chat.completions.stream(model=model, messages=ASKED, response_format=Place) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Place(city="Rome", days=3)


@every_upstream
def test_images(client: OpenAI, model: str, upstream: WireServer, says: Answering) -> None:
    says("a dot")
    content: Any = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ]
    reply = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    assert reply.choices[0].message.content == "a dot"
    assert PIXEL.partition(",")[2] in json.dumps(upstream.requests[-1].body)


def test_reasoning_is_shown_as_reasoning(client: OpenAI, model: str, says: Answering) -> None:
    says("42", thinking="let me think")
    reply = client.chat.completions.create(model=model, messages=ASKED, reasoning_effort="low")
    message: Any = reply.choices[0].message
    assert (message.content, message.reasoning_content.strip()) == ("42", "let me think")


# --- completions, embeddings, models ---------------------------------------------------------------------------------


def test_completions(client: OpenAI, model: str, says: Answering) -> None:
    says("Once", " upon")
    reply = client.completions.create(model=model, prompt="Tell", max_tokens=9)
    assert (reply.object, reply.choices[0].text, reply.choices[0].finish_reason) == (
        "text_completion",
        "Once upon",
        "stop",
    )
    says("Once", " upon")
    chunks = list(client.completions.create(model=model, prompt="Tell", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Once upon"


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings(client: OpenAI, upstreams: dict[str, WireServer], encoding: Any) -> None:
    more = {} if encoding is None else {"encoding_format": encoding}
    reply = client.embeddings.create(model="gpt", input=["four", "longer"], **more)
    vectors = [entry.embedding for entry in reply.data]
    if encoding == "base64":
        assert all(isinstance(vector, str) for vector in vectors)
    else:
        assert vectors == [[4.0, 0.5, -1.0], [6.0, 0.5, -1.0]]
    assert reply.usage.prompt_tokens == charges(upstreams["gpt"])[-1].input_tokens


def test_embeddings_of_who_has_none_are_refused_by_name(client: OpenAI, upstreams: dict[str, WireServer]) -> None:
    asked = len(upstreams["claude"].requests)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="claude", input="x")
    assert "embeddings" in caught.value.message
    assert len(upstreams["claude"].requests) == asked


def test_models_are_the_routes(client: OpenAI) -> None:
    assert {listed.id for listed in client.models.list()} >= {"gpt", "claude"}
    assert client.models.retrieve("claude").id == "claude"


def test_rerank(marked: Marked, upstreams: dict[str, WireServer]) -> None:
    body = {"model": "gpt", "query": "q", "documents": ["a", "bbb", "cc"], "top_n": 2}
    reply: Any = marked.client.post("/rerank", body=body, cast_to=object)
    assert [result["index"] for result in reply["results"]] == [1, 2]
    assert marked.rows(1)[0]["input_tokens"] == charges(upstreams["gpt"])[-1].input_tokens


def test_several_answers_are_charged_and_refused_where_there_is_only_one(
    client: OpenAI, marked: Marked, upstreams: dict[str, WireServer]
) -> None:
    reply = marked.client.chat.completions.create(model="gpt", messages=ASKED, n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert marked.rows(1)[0]["output_tokens"] == charges(upstreams["gpt"])[-1].output_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="claude", messages=ASKED, n=3)
    assert caught.value.param == "n"


# --- responses -------------------------------------------------------------------------------------------------------


def test_a_response(client: OpenAI, model: str, upstream: WireServer, says: Answering) -> None:
    says("Hello", " you", thinking="hm")
    response = client.responses.create(
        model=model, instructions="Be kind.", input="Hi", max_output_tokens=60, reasoning={"effort": "low"}
    )
    assert (response.output_text, response.status) == ("Hello you", "completed")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    charge = charges(upstream)[-1]
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (charge.input_tokens, charge.output_tokens)


def test_a_streamed_response(client: OpenAI, model: str, says: Answering) -> None:
    says("Hello", " you")
    content: Any = [{"type": "input_text", "text": "this?"}, {"type": "input_image", "image_url": PIXEL}]
    with client.responses.stream(model=model, input=[{"role": "user", "content": content}]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "Hello you"
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") == 2


def test_an_upstream_with_responses_of_its_own_keeps_all_it_can_do(
    marked: Marked, upstreams: dict[str, WireServer]
) -> None:
    before = len(charges(upstreams["gpt"]))
    tools: Any = [{"type": "web_search"}]
    for pieces in (("Hello", " you"), ("Hello", " again")):
        upstreams["gpt"].script(Answer(pieces=pieces, cached=1))
    whole = marked.client.responses.create(model="real", input="x", previous_response_id="resp_0", tools=tools)
    assert (whole.output_text, whole.previous_response_id, whole.id) == ("Hello you", "resp_0", "resp_real")
    with marked.client.responses.stream(model="real", input="x") as stream:
        assert stream.get_final_response().output_text == "Hello again"
    sent = upstreams["gpt"].requests[-1].body
    assert (sent["model"], sent["max_output_tokens"]) == ("real-model", 500)
    found = marked.rows(2)
    charged = [(charge.input_tokens, charge.output_tokens) for charge in charges(upstreams["gpt"])[before:]]
    assert [(row["input_tokens"], row["output_tokens"]) for row in found] == charged


def test_tools_through_responses(client: OpenAI, model: str, upstream: WireServer, says: Answering) -> None:
    tool: Any = {"type": "function", "strict": True, **WEATHER["function"]}
    asked: Any = [{"role": "user", "content": "Weather?"}]
    says(tools=CALLS)
    with client.responses.stream(model=model, input=asked, tools=[tool]) as stream:
        response = stream.get_final_response()
    calls = [item for item in response.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Köln", "days": 2}, {"city": "Rome"}]
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    given: Any = [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output]
    says("Sunny.")
    final = client.responses.create(model=model, input=[*asked, *given, *results], tools=[tool])
    assert final.output_text == "Sunny."


def test_structured_responses(client: OpenAI, model: str, says: Answering) -> None:
    says('{"city": "Rome",', ' "days": 3}')
    assert client.responses.parse(model=model, input="where?", text_format=Place).output_parsed == Place(
        city="Rome", days=3
    )


def test_what_needs_openai_itself_is_refused_by_name(client: OpenAI, model: str, upstream: WireServer) -> None:
    asked = len(upstream.requests)
    for more, param in (
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=model, input="x", **more)  # type: ignore[call-overload]
        assert caught.value.param == param
    assert len(upstream.requests) == asked


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_wrong_key(worker: RunningWorker, model: str) -> None:
    wrong = OpenAI(base_url=f"{worker.url}/v1", api_key="lk_nobody_" + "x" * 43, max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError) as caught:
        wrong.chat.completions.create(model=model, messages=ASKED)
    assert (caught.value.code, caught.value.status_code) == ("invalid_api_key", 401)


def test_no_such_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gtp", messages=ASKED)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "gpt" in caught.value.message


@pytest.mark.parametrize(
    ("status", "error", "raised"),
    [
        (400, ("invalid_request_error", "temperature is odd"), openai.BadRequestError),
        (429, ("rate_limit_error", "too fast"), openai.RateLimitError),
        (500, ("api_error", "oops"), openai.InternalServerError),
        (401, ("authentication_error", "bad key"), openai.InternalServerError),
    ],
)
def test_errors_of_the_upstream(
    client: OpenAI, model: str, says: Answering, status: int, error: tuple[str, str], raised: type[openai.APIError]
) -> None:
    for stream in (False, True):
        says(status=status, error=error)
        with pytest.raises(raised) as caught:
            client.chat.completions.create(model=model, messages=ASKED, stream=stream)
        assert KEY not in caught.value.message
        if status in (400, 429):
            assert error[1] in caught.value.message


def test_the_sdk_tries_again_by_itself(client: OpenAI, model: str, upstream: WireServer, says: Answering) -> None:
    asked = len(upstream.requests)
    says(status=429, error=("rate_limit_error", "too fast"), headers={"retry-after": "0.1"})
    says("at last")
    reply = client.with_options(max_retries=4).chat.completions.create(model=model, messages=ASKED)
    assert reply.choices[0].message.content == "at last"
    assert len(upstream.requests) == asked + 2


@pytest.mark.parametrize("fault", [{"cut_after": 4}, {"error_after": 4}])
def test_a_stream_that_breaks_raises_after_what_came(
    client: OpenAI, model: str, says: Answering, fault: dict[str, int]
) -> None:
    says("one ", "two ", "three ", "four ", "five ", "six ", **fault)
    texts = []
    with pytest.raises(openai.APIError):
        for chunk in client.chat.completions.create(model=model, messages=ASKED, stream=True):
            texts.append(chunk.choices[0].delta.content or "")
    assert "one two three four five six".startswith("".join(texts))
    assert "six" not in texts


def test_a_body_that_is_wrong(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=ASKED, n=-1)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=ASKED, max_tokens=-5)


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_rows_say_what_the_upstream_charged_and_what_was_said(
    marked: Marked, model: str, upstream: WireServer, says: Answering
) -> None:
    before, client = len(charges(upstream)), marked.client
    says("one", " two", cached=2)
    client.chat.completions.create(model=model, messages=ASKED)
    says("three", " four", tools=CALLS)
    list(client.chat.completions.create(model=model, messages=ASKED, tools=[WEATHER], stream=True))
    assert len(charges(upstream)) == before + 2
    says("five")
    with client.responses.stream(model=model, input="x") as stream:
        stream.until_done()
    found = marked.rows(3)
    ledger = charges(upstream)[before:]
    for row, charge in zip(found, ledger, strict=True):
        assert (row["input_tokens"], row["output_tokens"]) == (charge.input_tokens, charge.output_tokens)
        cost = charge.input_tokens * Decimal("0.000001") + charge.output_tokens * Decimal("0.000002")
        assert Decimal(str(row["cost_usd"])) == cost
    replies = [json.loads(row["response_json"]) for row in found]
    assert replies[0]["choices"][0]["message"]["content"] == "one two"
    assert replies[1]["choices"][0]["message"]["content"] == "three four"
    assert len(replies[1]["choices"][0]["message"]["tool_calls"]) == 2
    assert replies[2]["output"][0]["content"][0]["text"] == "five"

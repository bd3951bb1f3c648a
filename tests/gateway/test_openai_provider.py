"""What goes to OpenAI-format servers, and what is read from their replies, streams and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from decimal import Decimal
from typing import Any, get_args

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.json_values import CUTS, JSON, objects, patiently, pieces, thoroughly

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Fault, FaultKind, Operation, Provider, Reader, Relay, Usage
from llmops.gateway.config import PriceConfig, ProviderConfig, TargetConfig
from llmops.gateway.providers import open_provider
from llmops.gateway.providers.faults import MAX_MESSAGE, read_fault, retry_after_s
from llmops.gateway.sse import blocks, read_event

KEY = "sk-test-0123456789abcdefghij"
TARGET = TargetConfig(provider="up", model="real-model", max_output_tokens=100)


def provider(kind: str = "openai", url: str | None = "http://127.0.0.1:9/v1", **more: Any) -> Provider:
    return open_provider(ProviderConfig(kind=kind, url=url, **more), KEY)


def sent(body: dict[str, Any], operation: Operation = "chat", to: Provider | None = None) -> dict[str, Any]:
    return orjson.loads((to or provider()).build(operation, body, TARGET).body)


def event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m-1", "choices": [choice], **more}


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
STREAM = (
    event(chunk(""))
    + b": keep-alive\n\n"
    + b"".join(event(chunk(f"word{number} ", usage=None)) for number in range(6))
    + event(chunk(None, "stop", usage=None))
    + event({**chunk(), "choices": [], "usage": USAGE})
    + b"data: [DONE]\n\n"
)


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_body_goes_out_as_it_came_but_for_model_and_maximum() -> None:
    body = {
        "model": "route",
        "messages": [{"role": "user", "content": "hé", "cache_control": {"type": "ephemeral"}}],
        "temperature": 0.3,
        "repetition_penalty": 1.1,
        "guided_json": {"a": [1, None]},
    }
    before = orjson.dumps(body)
    request = provider().build("chat", body, TARGET)
    assert orjson.loads(request.body) == {**body, "model": "real-model", "max_tokens": 100}
    assert orjson.dumps(body) == before
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert (b"authorization", b"Bearer " + KEY.encode()) in request.headers


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ({}, 100),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 70, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 5000}, 100),
        ({"max_tokens": None}, 100),
        ({"n_predict": 12}, 12),
        ({"n_predict": -1, "max_tokens": 30}, 30),
        ({"max_new_tokens": 3}, 3),
    ],
)
def test_the_maximum_of_output_is_the_lower_one_under_the_one_name_the_server_knows(
    asked: dict[str, Any], limit: int
) -> None:
    body = {"model": "r", "messages": [], **asked}
    names = {"max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens"}
    compatible = sent(body)
    assert {name: compatible[name] for name in names & compatible.keys()} == {"max_tokens": limit}
    real = sent(body, to=provider(url=None))
    assert {name: real[name] for name in names & real.keys()} == {"max_completion_tokens": limit}


@pytest.mark.parametrize("wrong", [-1, 1.5, "10", True, [1]])
def test_a_maximum_that_is_no_number_is_the_callers_mistake(wrong: Any) -> None:
    with pytest.raises(Fault) as caught:
        sent({"model": "r", "messages": [], "max_tokens": wrong})
    assert (caught.value.kind, caught.value.status, caught.value.param) == ("bad_request", 400, "max_tokens")


def test_streams_are_asked_for_their_usage_and_keep_other_options() -> None:
    body = {"model": "r", "messages": [], "stream": True, "stream_options": {"chunk_size": 3, "include_usage": False}}
    assert sent(body)["stream_options"] == {"chunk_size": 3, "include_usage": True}
    assert "stream_options" not in sent({"model": "r", "messages": [], "stream": False})
    assert "stream_options" not in sent({"model": "r", "input": "x", "stream": True}, "responses", provider(url=None))


@pytest.mark.parametrize("body", [{"stream": "yes"}, {"stream": 1}, {"stream": True, "stream_options": []}])
def test_a_stream_flag_that_is_none_is_the_callers_mistake(body: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        sent({"model": "r", "messages": [], **body})
    assert caught.value.kind == "bad_request"


def test_what_is_native_follows_the_configuration() -> None:
    assert provider(url=None).native == {"chat", "completions", "embeddings", "responses"}
    assert provider().native == {"chat", "completions", "embeddings"}
    assert provider(operations=("rerank", "responses")).native == {"rerank", "responses"}
    with pytest.raises(ConfigError, match="cannot offer `messages`"):
        provider(operations=("messages",))
    with pytest.raises(Fault, match="does not offer `chat`"):
        provider(operations=("rerank",)).build("chat", {"messages": []}, TARGET)


def test_a_native_response_is_limited_and_never_left_in_the_background() -> None:
    real = provider(url=None)
    body = {"model": "r", "input": "x", "previous_response_id": "resp_1", "tools": [{"type": "mcp"}]}
    assert sent(body, "responses", real) == {**body, "model": "real-model", "max_output_tokens": 100}
    with pytest.raises(Fault, match="background"):
        sent({**body, "background": True}, "responses", real)


def test_openai_itself_gets_no_field_it_would_refuse() -> None:
    body = {
        "messages": [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "a", "cache_control": {}}],
                "reasoning_content": "hm",
                "thinking_blocks": [{}],
                "tool_calls": [{"id": "1", "extra_content": {"google": {}}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "x", "is_error": True},
        ],
        "thinking": {"type": "enabled"},
        "top_k": 5,
    }
    out = sent(body, to=provider(url=None))
    assert out["messages"] == [
        {"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]
    assert not {"thinking", "top_k"} & out.keys()
    assert sent(body)["messages"] == body["messages"]


@pytest.mark.parametrize(
    "more",
    [
        {"service_tier": "priority"},
        {"modalities": ["text", "audio"], "audio": {"voice": "x"}},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"tools": [{"type": "web_search_preview"}]},
        {"web_search_options": {}},
    ],
)
def test_what_costs_more_than_text_needs_a_stated_price(more: dict[str, Any]) -> None:
    body = {"model": "r", "messages": [], **more}
    stated = TARGET.model_copy(update={"price": PriceConfig(input=Decimal(1))})
    for dear in (provider(url=None), provider("azure", "https://x.openai.azure.com")):
        with pytest.raises(Fault) as caught:
            dear.build("chat", body, TARGET)
        assert (caught.value.kind, caught.value.code) == ("bad_request", "unpriced")
        dear.build("chat", body, stated)
    provider().build("chat", body, TARGET)


@pytest.mark.parametrize("operation", ["embeddings", "rerank"])
def test_what_cannot_be_streamed_is_refused(operation: Operation) -> None:
    with pytest.raises(Fault, match="stream"):
        sent({"input": "x", "stream": True}, operation, provider(operations=("embeddings", "rerank")))


def test_headers_of_the_configuration_are_resolved_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "secret-value")
    headers = provider(headers={"X-Other": "env:OTHER_KEY", "x-plain": "a b"}, organization="org-1")
    found = dict(headers.build("chat", {"messages": []}, TARGET).headers)
    assert found[b"x-other"] == b"secret-value"
    assert found[b"x-plain"] == b"a b"
    assert found[b"openai-organization"] == b"org-1"
    for wrong in ({"x-a": "a\r\nx-b: c"}, {"x a": "1"}, {"Host": "elsewhere"}, {"content-length": "3"}):
        with pytest.raises(ConfigError):
            provider(headers=wrong)


# --- Azure and Mistral -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "version", "path", "limit"),
    [
        (
            "https://x.openai.azure.com",
            None,
            "/openai/deployments/real-model/chat/completions?api-version=2024-10-21",
            "max_completion_tokens",
        ),
        (
            "https://x.openai.azure.com/openai",
            "2024-02-01",
            "/openai/deployments/real-model/chat/completions?api-version=2024-02-01",
            "max_tokens",
        ),
        ("https://x.openai.azure.com/openai/v1", None, "/openai/v1/chat/completions", "max_completion_tokens"),
        (
            "https://x.openai.azure.com/openai/v1",
            "preview",
            "/openai/v1/chat/completions?api-version=preview",
            "max_completion_tokens",
        ),
    ],
)
def test_azure_addresses(url: str, version: str | None, path: str, limit: str) -> None:
    azure = provider("azure", url, api_version=version)
    request = azure.build("chat", {"model": "r", "messages": [], "stream": True}, TARGET)
    assert request.path == path
    assert (b"api-key", KEY.encode()) in request.headers
    assert b"authorization" not in dict(request.headers)
    assert orjson.loads(request.body)[limit] == 100


def test_azure_takes_entra_tokens_and_quotes_deployments() -> None:
    azure = open_provider(ProviderConfig(kind="azure", url="https://x.openai.azure.com"), "eyJh.eyJz.c2ln")
    request = azure.build("chat", {"messages": []}, TARGET.model_copy(update={"model": "a/b?c"}))
    assert dict(request.headers)[b"authorization"] == b"Bearer eyJh.eyJz.c2ln"
    assert "/deployments/a%2Fb%3Fc/" in request.path
    with pytest.raises(ConfigError, match="by api-version does not offer"):
        provider("azure", "https://x.openai.azure.com", operations=("responses",))


def test_mistral_is_told_in_its_own_words() -> None:
    body = {
        "model": "r",
        "messages": [
            {"role": "developer", "content": "be brief", "name": "ops"},
            {"role": "assistant", "tool_calls": [{"id": "call_abc", "type": "function", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "call_abc", "content": "1"},
        ],
        "max_completion_tokens": 9,
        "seed": 3,
        "tool_choice": "required",
        "stream": True,
        "user": "u",
        "safe_prompt": True,
        "logprobs": False,
        "n": 2,
    }
    out = sent(body, to=provider("mistral", None))
    call = out["messages"][1]["tool_calls"][0]["id"]
    assert (len(call), call.isalnum(), call) == (9, True, out["messages"][2]["tool_call_id"])
    assert out["messages"][0] == {"role": "system", "content": "be brief"}
    assert {name: value for name, value in out.items() if name != "messages"} == {
        "model": "real-model",
        "max_tokens": 9,
        "random_seed": 3,
        "tool_choice": "any",
        "stream": True,
        "safe_prompt": True,
        "n": 2,
    }
    with pytest.raises(Fault, match="logit_bias"):
        sent({"messages": [], "logit_bias": {"1": 2}}, to=provider("mistral", None))


def test_mistrals_reasoning_parts_become_reasoning_content() -> None:
    mistral = provider("mistral", None)
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "yes"},
    ]
    whole = {
        "model": "m",
        "choices": [{"index": 0, "message": {"content": content}, "finish_reason": "model_length"}],
        "usage": USAGE,
    }
    reply = mistral.reply("chat", orjson.dumps(whole))
    message = orjson.loads(reply.body)["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"], reply.finish) == ("yes", "hm", "length")
    relay = mistral.relay("chat", {})
    relay.feed(event(chunk("a")))
    out = relay.feed(event({**chunk(), "choices": [{"index": 0, "delta": {"content": content}}]}))
    assert orjson.loads(out[6:])["choices"][0]["delta"] == {"content": "yes", "reasoning_content": "hm"}


# --- whole replies ---------------------------------------------------------------------------------------------------


def test_usage_is_read_in_the_words_of_each_server() -> None:
    def usage(value: Any) -> Usage | None:
        choices = [{"message": {"content": "x"}}]
        return provider().reply("chat", orjson.dumps({"choices": choices, "usage": value})).usage

    assert usage(USAGE) == Usage(10, 5, cached_tokens=4, reasoning_tokens=2)
    assert usage({"prompt_tokens": 3, "completion_tokens": 1, "prompt_cache_hit_tokens": 2}) == Usage(3, 1, 2)
    apart = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 22}
    assert usage({**apart, "completion_tokens_details": {"reasoning_tokens": 7}}) == Usage(10, 12, reasoning_tokens=7)
    assert usage({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}}) == Usage(3, 0, 3)
    for missing in (None, {}, [], {"prompt_tokens": -1}, {"prompt_tokens": "3"}, {"prompt_tokens": True}):
        assert usage(missing) is None
    for senseless in (-5, "5", 2.5, True, 2**31, 2**63, 1e30):
        assert usage({"prompt_tokens": 3, "completion_tokens": senseless}) is None
        assert usage({"prompt_tokens": senseless, "completion_tokens": 3}) is None


def test_the_bytes_of_a_good_reply_are_untouched() -> None:
    body = b'{ "choices":[{"index":0,"message":{"content":"\\u00e9"},"finish_reason":"stop"}],"model":"m-2" }'
    reply = provider().reply("chat", body)
    assert (reply.body, reply.model, reply.finish, reply.usage) == (body, "m-2", "stop", None)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("chat", b"<html>"),
        ("chat", b"[]"),
        ("chat", b"{}"),
        ("chat", b'{"choices":[]}'),
        ("chat", b'{"choices":[{"text":"x"}]}'),
        ("completions", b'{"choices":[{"message":{}}]}'),
        ("embeddings", b'{"data":[{"index":0}]}'),
        ("rerank", b'{"results":[{"relevance_score":1}]}'),
        ("responses", b'{"output":{}}'),
    ],
)
def test_a_reply_of_the_wrong_shape_is_invalid(operation: Operation, body: bytes) -> None:
    with pytest.raises(Fault) as caught:
        provider().reply(operation, body)
    assert caught.value.kind == "invalid"


def test_an_error_that_came_as_a_good_reply_is_an_error() -> None:
    with pytest.raises(Fault) as caught:
        provider().reply("chat", b'{"error":{"message":"slow down","code":429}}')
    assert (caught.value.kind, caught.value.message) == ("rate_limited", "slow down")


def test_rerank_counts_searches_or_tokens() -> None:
    results = [{"index": 0, "relevance_score": 0.5}]
    cohere = {"results": results, "meta": {"billed_units": {"search_units": 3}}}
    assert provider().reply("rerank", orjson.dumps(cohere)).usage == Usage(searches=3)
    vllm = {"results": results, "usage": {"total_tokens": 40}}
    assert provider().reply("rerank", orjson.dumps(vllm)).usage == Usage(input_tokens=40, searches=1)
    assert provider().reply("rerank", orjson.dumps({"results": results})).usage is None


# --- streams ---------------------------------------------------------------------------------------------------------


@patiently
@example(cuts=[4431], asked=False, crlf=True)
@given(cuts=CUTS, asked=st.booleans(), crlf=st.booleans())
def test_a_stream_is_passed_on_whole_wherever_it_is_cut(cuts: list[int], asked: bool, crlf: bool) -> None:
    raw = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    relay = provider().relay("chat", {"stream": True, "stream_options": {"include_usage": asked}})
    out = b"".join(relay.feed(piece) for piece in pieces(raw, cuts))
    usage_event = event({**chunk(), "choices": [], "usage": USAGE})
    expected = STREAM if asked else STREAM.replace(usage_event, b"")
    assert out == (expected.replace(b"\n", b"\r\n") if crlf else expected)
    assert relay.usage == Usage(10, 5, cached_tokens=4, reasoning_tokens=2)
    assert (relay.model, relay.finished, relay.fault) == ("m-1", True, None)
    assert relay.received == 9  # six events, but 36 bytes of text


@patiently
@given(cuts=CUTS)
def test_a_reader_gives_the_same_chunks_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    reader = provider().reader({})
    chunks = [found for piece in pieces(STREAM, cuts) for found in reader.feed(piece)]
    assert "".join(choice["delta"].get("content", "") for found in chunks for choice in found["choices"]) == (
        "word0 word1 word2 word3 word4 word5 "
    )
    assert [found["usage"] for found in chunks if "usage" in found] == [USAGE]
    assert chunks[-1]["choices"] == []
    assert (reader.finished, reader.fault, reader.received) == (True, None, 9)


def test_a_cut_stream_is_not_finished_and_its_tokens_are_counted() -> None:
    relay = provider().relay("chat", {"stream": True})
    for _ in range(5):
        relay.feed(event(chunk("a")))
    assert (relay.finished, relay.usage, relay.received) == (False, None, 5)
    relay.feed(event(chunk("x" * 400)))
    assert relay.received == 101
    tools = [{"index": 0, "function": {"arguments": '{"a": 1}'}}]
    relay.feed(event({**chunk(), "choices": [{"index": 0, "delta": {"tool_calls": tools}, "finish_reason": None}]}))
    assert relay.received == 103


@pytest.mark.parametrize("spaced", [False, True])
def test_a_server_that_sends_no_done_ends_with_its_last_choice(spaced: bool) -> None:
    relay = provider().relay("chat", {"stream": True, "n": 2})
    for index in (0, 1):
        assert not relay.finished
        value = {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}
        data = orjson.dumps(value).replace(b":", b": ") if spaced else orjson.dumps(value)
        relay.feed(b"data: " + data + b"\n\n")
    assert relay.finished


@pytest.mark.parametrize("kind", ["relay", "reader"])
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (event({"error": {"message": "no room " + KEY, "type": "server_error", "code": None}}), "server_error"),
        (event({"error": {"message": "wait", "code": "rate_limit_exceeded"}}), "rate_limited"),
        (b"event: error\n" + event({"error": {"message": "x", "code": 503}}), "overloaded"),
        (b"data: oops\n\n", "invalid"),
        (b"data: []\n\n", "invalid"),
        (b"data: " + b"x" * (9 * 1024**2), "invalid"),
    ],
)
def test_an_error_inside_a_stream_is_a_fault_and_is_not_passed_on(kind: str, bad: bytes, expected: str) -> None:
    stream = provider().relay("chat", {}) if kind == "relay" else provider().reader({})
    first: Any = stream.feed(event(chunk("a")))
    assert first
    assert not stream.feed(bad)
    assert stream.fault is not None
    assert stream.fault.kind == expected
    assert KEY not in stream.fault.message
    assert not stream.feed(event(chunk("b")))
    assert not stream.finished


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"choices":[{"message":{"content":"x"}}]}', "invalid"),
        (b'{"error":{"message":"full","code":429}}', "rate_limited"),
        (b"<html>504</html>", "invalid"),
    ],
)
def test_a_server_that_ignores_the_stream_flag_is_found_out(body: bytes, expected: str) -> None:
    relay = provider().relay("chat", {"stream": True})
    assert relay.feed(body) == b""
    assert relay.fault is not None
    assert relay.fault.kind == expected


def _named(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, **fields})


RESPONSES = (
    _named("response.created", response={"id": "r", "model": "m-9", "usage": None})
    + b"".join(_named("response.output_text.delta", delta="word ", output_index=0) for _ in range(4))
    + _named("response.output_text.done", text="word word word word ", output_index=0)
    + _named(
        "response.completed",
        response={"model": "m-9", "usage": {"input_tokens": 8, "output_tokens": 4, "total_tokens": 12}},
    )
)


@patiently
@given(cuts=CUTS)
def test_native_responses_pass_unchanged_and_tell_their_usage(cuts: list[int]) -> None:
    relay = provider(url=None).relay("responses", {"stream": True})
    assert b"".join(relay.feed(piece) for piece in pieces(RESPONSES, cuts)) == RESPONSES
    assert (relay.usage, relay.model, relay.finished, relay.fault) == (Usage(8, 4), "m-9", True, None)
    assert relay.received == 5


@pytest.mark.parametrize("at_once", [True, False])
def test_a_usage_that_text_follows_does_not_count_it(at_once: bool) -> None:
    early = event({"choices": [], "model": "m", "usage": {"prompt_tokens": 8, "completion_tokens": 1}})
    texts = [event(_delta(f"word{number} ")) for number in range(20)]
    late = event({"choices": [], "model": "m", "usage": {"prompt_tokens": 8, "completion_tokens": 30}})
    for stream in (provider().relay("chat", {}), provider().reader({})):
        for data in [b"".join([early, *texts])] if at_once else [early, *texts]:
            stream.feed(data)
        assert stream.usage is None
        assert stream.received >= 20
        stream.feed(late)
        assert stream.usage == Usage(8, 30)


def _delta(text: str) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def test_a_failed_response_is_a_fault() -> None:
    relay = provider(url=None).relay("responses", {"stream": True})
    failed = {"error": {"code": "server_error", "message": "lost"}, "usage": {"input_tokens": 8, "output_tokens": 1}}
    assert relay.feed(_named("response.failed", response=failed)) == b""
    assert relay.fault is not None
    assert (relay.fault.kind, relay.fault.message, relay.usage) == ("server_error", "lost", Usage(8, 1))


@thoroughly
@given(values=st.lists(st.one_of(objects(("choices", "usage", "error", "model", "delta", "response", "type")), JSON)))
def test_no_stream_of_arbitrary_json_breaks_a_relay_or_reader(values: list[Any]) -> None:
    raw = b"".join(event(value) for value in values)
    mistral = provider("mistral", None).relay("chat", {})  # says some fields as OpenAI does
    for stream in (
        provider().relay("chat", {}),
        provider().relay("completions", {}),
        provider(url=None).relay("responses", {}),
        mistral,
        provider().reader({}),
        provider("mistral", None).reader({}),
    ):
        _makes_sense(stream, raw, [stream.feed(raw)], rewritten=stream is mistral)


@patiently
@given(raw=st.binary(max_size=300), cuts=CUTS)
@example(raw=b"\n\0", cuts=[])  # a blank line goes on, and says nothing
def test_no_bytes_break_a_relay_or_reader(raw: bytes, cuts: list[int]) -> None:
    for stream in (provider().relay("chat", {}), provider(url=None).relay("responses", {}), provider().reader({})):
        _makes_sense(stream, raw, [stream.feed(piece) for piece in pieces(raw, cuts)])


def _makes_sense(stream: Relay | Reader, raw: bytes, told: Sequence[Any], *, rewritten: bool = False) -> None:
    """What goes on to the caller, can be booked, and is said of it, whatever it was fed."""
    assert 0 <= stream.received <= len(raw)
    assert stream.model is None or isinstance(stream.model, str)
    usage = stream.usage
    counts = [] if usage is None else [value for value in astuple(usage) if not isinstance(value, bool)]
    assert all(isinstance(count, int) and 0 <= count < 2**53 for count in counts)
    if stream.fault is not None:
        assert stream.fault.kind in get_args(FaultKind)
        assert 0 < len(stream.fault.message) <= MAX_MESSAGE
        assert 400 <= stream.fault.status < 600
        assert not stream.feed(STREAM), "a stream that failed goes on"
    if told and isinstance(told[0], bytes):
        assert rewritten or _passed_on(b"".join(told), raw)
    else:
        _canonical([chunk for chunks in told for chunk in chunks])


def _passed_on(sent: bytes, raw: bytes) -> bool:
    """Whether these are whole events of the upstream's, in its order, and nothing that it did not send."""
    offered = iter(_without_usage(raw))
    in_order = all(told in offered for told in _without_usage(sent))  # `in` takes what stands before from the iterator
    return in_order and sent[-1:] in b"\r\n"


def _without_usage(stream: bytes) -> list[Any]:
    """What a stream's events say: a relay takes out only the usage that nobody asked for."""
    told: list[Any] = []
    for block in blocks(stream):
        if not block.strip(b"\r\n"):
            continue
        try:
            value = orjson.loads((read_event(block) or (b"", block.strip()))[1])
        except orjson.JSONDecodeError:
            value = block.strip()
        told.append(
            {name: kept for name, kept in value.items() if name != "usage"} if isinstance(value, dict) else value
        )
    return told


def _canonical(chunks: list[Any]) -> None:
    """Chunks that every dialect can write: choices with deltas, the usage in one of its own, at most once."""
    for chunk in chunks:
        assert all(isinstance(choice["delta"], dict) for choice in chunk["choices"])
        assert orjson.loads(orjson.dumps(chunk)) == chunk
    with_usage = [chunk for chunk in chunks if "usage" in chunk]
    assert len(with_usage) <= 1
    assert all(chunk["choices"] == [] for chunk in with_usage)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "told", "message"),
    [
        (400, b'{"error":{"message":"no such field","param":"x"}}', "bad_request", 400, "no such field"),
        (404, b'{"error":{"message":"no model","code":"model_not_found"}}', "bad_request", 404, "no model"),
        (422, b'{"detail":[{"loc":["body","n"],"msg":"too small"}]}', "bad_request", 422, "body.n: too small"),
        (400, b'{"error":{"message":"m","code":"context_length_exceeded"}}', "context_too_long", 400, "m"),
        (
            400,
            b'{"object":"error","message":"This model\'s maximum context length is 4096","code":400}',
            "context_too_long",
            400,
            "maximum context length",
        ),
        (400, b'{"error":{"code":"content_filter","message":"m"}}', "content_filtered", 400, "m"),
        (
            400,
            b'{"error":{"message":"m","code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}',
            "content_filtered",
            400,
            "m",
        ),
        (401, b'{"error":{"message":"Incorrect API key provided: sk-abc*"}}', "unauthenticated", 502, "gateway's key"),
        (403, b"forbidden", "unauthenticated", 502, "forbidden"),
        (429, b'{"error":"slow"}', "rate_limited", 429, "slow"),
        (402, b'{"error":{"message":"Insufficient Balance"}}', "rate_limited", 429, "Insufficient Balance"),
        (500, b"", "server_error", 502, "status 500"),
        (502, b"<html><title>502 Bad Gateway</title></html>", "server_error", 502, "502 Bad Gateway"),
        (503, b'{"error":"loading","error_type":"overloaded"}', "overloaded", 503, "loading"),
        (529, b"\x00\xff", "overloaded", 503, "status 529"),
        (302, b"", "invalid", 502, "status 302"),
    ],
)
def test_error_replies_by_status_code_and_shape(status: int, body: bytes, kind: str, told: int, message: str) -> None:
    fault = provider().fault(status, [], body)
    assert (fault.kind, fault.status) == (kind, told)
    assert message in fault.message or message == "status 529"


def test_an_account_without_money_is_not_asked_again_soon() -> None:
    body = b'{"error":{"message":"quota","type":"insufficient_quota","code":"insufficient_quota"}}'
    fault = provider().fault(429, [(b"retry-after", b"1")], body)
    assert fault.kind == "rate_limited"
    assert fault.retry_after_s is not None
    assert fault.retry_after_s >= 3600


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"Retry-After": b"3"}, 3.0),
        ({b"retry-after": b"1.5"}, 1.5),
        ({b"retry-after-ms": b"250", b"retry-after": b"9"}, 0.25),
        ({b"retry-after": b"Wed, 21 Oct 2015 07:28:30 GMT"}, 30.0),
        ({b"retry-after": b"Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({b"retry-after": b"999999999"}, 86_400.0),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"-4"}, None),
        ({b"x-ratelimit-reset-requests": b"1s", b"x-ratelimit-reset-tokens": b"6m0s"}, 360.0),
        (
            {
                b"x-ratelimit-reset-requests": b"250ms",
                b"x-ratelimit-remaining-requests": b"0",
                b"x-ratelimit-reset-tokens": b"6m0s",
                b"x-ratelimit-remaining-tokens": b"100",
            },
            0.25,
        ),
        ({b"x-ratelimit-reset-tokens": b"1s; x"}, None),
        ({}, None),
    ],
)
def test_when_to_ask_again(headers: dict[bytes, bytes], expected: float | None) -> None:
    found = retry_after_s(list(headers.items()), limited=True, now=1445412480.0)
    assert found == pytest.approx(expected) if expected is not None else found is None


def test_messages_hold_no_key_no_query_and_no_novel() -> None:
    secret = "plain-secret-value"
    text = f"bad {secret} at https://user:pw@host/path?sig=abc#x and {KEY} " + "long " * 1000
    message = read_fault(400, (), orjson.dumps({"error": {"message": text}}), secret).message
    for hidden in (secret, "pw@", "sig=abc", KEY):
        assert hidden not in message
    assert "https://host/path" in message
    assert len(message) <= 500


@pytest.mark.parametrize("before", ["x" * 92, "x" * 490, f"<a{' ' * 490}>" * 4 + "x" * 20, "\x01" * 1_990])
def test_no_half_of_a_key_is_left_where_texts_are_cut(before: str) -> None:
    secret = "plain-secret-value"
    told = {"message": before + secret, "code": before + secret, "param": before + secret}
    fault = read_fault(400, (), orjson.dumps({"error": told}), secret)
    assert "plain" not in f"{fault.message}{fault.code}{fault.param}"
    assert "plain" not in read_fault(400, (), (before + secret).encode(), secret).message


@thoroughly
@given(
    status=st.integers(300, 599),
    body=st.one_of(
        st.binary(max_size=200), JSON.map(orjson.dumps), objects(("error", "message", "code")).map(orjson.dumps)
    ),
    headers=st.lists(st.tuples(st.sampled_from([b"retry-after", b"x-ratelimit-reset-tokens"]), st.binary(max_size=30))),
)
def test_any_error_reply_is_a_fault_that_can_be_told(status: int, body: bytes, headers: Any) -> None:
    fault = provider().fault(status, headers, body)
    assert 400 <= fault.status < 600
    assert 0 < len(fault.message) <= 500
    assert fault.message.isprintable()
    assert fault.retry_after_s is None or 0 <= fault.retry_after_s <= 86_400
    orjson.dumps([fault.message, fault.code, fault.param])


@thoroughly
@given(
    body=objects(("messages", "stream", "stream_options", "max_tokens", "n", "tools", "prompt", "prediction", "seed"))
)
def test_no_request_breaks_a_builder(body: dict[str, Any]) -> None:
    builders: list[Callable[[], object]] = [
        lambda: provider().build("chat", body, TARGET),
        lambda: provider().build("completions", body, TARGET),
        lambda: provider(url=None).build("chat", body, TARGET),
        lambda: provider(url=None).build("responses", body, TARGET),
        lambda: provider("mistral", None).build("chat", body, TARGET),
        lambda: provider("azure", "https://x.openai.azure.com").build("chat", body, TARGET),
        lambda: provider().relay("chat", body),
        lambda: provider("mistral", None).relay("chat", body),
    ]
    for build in builders:
        assert only_fault(build) in (None, "bad_request")


def only_fault(act: Callable[[], object]) -> str | None:
    """The kind of fault it ends with, None for none; anything else raised is an error of the test."""
    try:
        act()
    except Fault as fault:
        return fault.kind
    return None

"""Bedrock's provider against recorded examples, AWS's own description of the API, and nonsense."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.json_values import mutants
from tests.support.nonsense import EXAMPLES, documents, objects
from tests.support.provider_calls import WEATHER
from tests.support.provider_calls import target as any_target
from tests.support.upstreams.bedrock import service
from tests.support.upstreams.frames import event, exception, frame

from llmops.gateway.calls import Fault, Provider, Usage
from llmops.gateway.chat import Extended
from llmops.gateway.config import ProviderConfig
from llmops.gateway.providers import open_provider

RECORDED = Path(__file__).parent / "fixtures" / "bedrock"
HELLO: dict[str, Any] = {"model": "r", "messages": [{"role": "user", "content": "Hello"}]}
CLAUDE, LLAMA = "eu.anthropic.claude-opus-5-5", "meta.llama4-scout-17b-instruct-v1:0"


def recorded(name: str) -> list[Any]:
    return list(json.loads((RECORDED / name).read_text(encoding="utf-8")))


def kind_of(act: Callable[[], object]) -> str | None:
    """The kind of the fault that came of it, if any."""
    try:
        act()
    except Fault as fault:
        return fault.kind
    return None


def provider() -> Provider:
    config = {"kind": "bedrock", "location": "eu-central-1", "api_key": "env:NEVER_READ"}
    return open_provider(ProviderConfig.model_validate(config), None)


def sent(body: dict[str, Any], model: str = CLAUDE) -> dict[str, Any]:
    return dict(json.loads(provider().build("chat", body, any_target(model)).body))


@pytest.mark.parametrize("case", recorded("requests.json"), ids=lambda case: case["name"])
def test_requests_are_said_as_recorded_and_as_aws_describes_them(case: dict[str, Any]) -> None:
    request = provider().build("chat", case["chat"], any_target(case["model"]))
    assert request.path == case["path"]
    assert json.loads(request.body) == case["sent"]
    model, _, action = request.path.removeprefix("/model/").partition("/")
    operation = "ConverseStream" if action == "converse-stream" else "Converse"
    shape = service().operation_model(operation).input_shape
    report = ParamValidator().validate({"modelId": unquote(model), **case["sent"]}, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("case", recorded("replies.json"), ids=lambda case: case["name"])
def test_replies_are_read_as_recorded(case: dict[str, Any]) -> None:
    reply = provider().reply(case["operation"], json.dumps(case["body"]).encode())
    assert reply.usage == (Usage(**case["usage"]) if case["usage"] else None)
    told = json.loads(reply.body)
    if case["operation"] == "embeddings":
        assert [item["embedding"] for item in told["data"]] == case["vectors"]
        return
    assert reply.finish == told["choices"][0]["finish_reason"] == case["finish"]
    assert told["choices"][0]["message"] == {"role": "assistant", "refusal": None, **case["message"]}


@pytest.mark.parametrize("case", recorded("errors.json"), ids=lambda case: case["name"])
@pytest.mark.parametrize("where", ["header", "body"])
def test_errors_are_told_as_what_they_are(case: dict[str, Any], where: str) -> None:
    body, headers = {"message": case["message"]}, []
    if where == "header":
        headers.append((b"x-amzn-errortype", f"{case['name']}:http://internal.amazon.com/coral/x/".encode()))
    else:
        body["__type"] = f"com.amazon.bedrock#{case['name']}"
    fault = provider().fault(case["status"], headers, json.dumps(body).encode())
    assert (fault.kind, fault.status) == (case["kind"], case["told"])
    assert case.get("hides", "\0") not in fault.message
    if case["kind"] in ("bad_request", "rate_limited", "context_too_long"):
        assert fault.message == case["message"]


@pytest.mark.parametrize("body", [b"", b"<html><title>Bad gateway</title></html>", b'{"x": 1}', b"[1]"])
def test_an_error_that_is_none_of_bedrocks(body: bytes) -> None:
    assert provider().fault(502, (), body).kind == "server_error"


@pytest.mark.parametrize("cut", [1, 7, 100, 10_000])
def test_the_recorded_stream(cut: int) -> None:
    data = (RECORDED / "stream.bin").read_bytes()
    assert data == b"".join(event(name, **told) for name, told in recorded("stream.json"))
    reader = provider().reader(HELLO)
    chunks = [chunk for start in range(0, len(data), cut) for chunk in reader.feed(data[start : start + cut])]
    assert reader.fault is None
    assert reader.finished
    assert reader.usage == Usage(47 + 1024, 20, cached_tokens=1024)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "I will look it up."
    assert [delta["thinking_blocks"] for delta in deltas if "thinking_blocks" in delta] == [
        [
            {
                "type": "thinking",
                "thinking": "The user wants a song.",
                "signature": "EqoBCkgIARABGAIiQL2UoU0b1OHYi+yCHpBY7U6FQW8/",
            }
        ]
    ]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("tooluse_kZJMlvQmRJ6eAyJE5GIl7Q", "top_song")
    assert "".join(call["function"]["arguments"] for call in calls) == '{"sign":"WZPZ"}'
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]][-1] == "tool_calls"
    assert chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 1024


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (exception("modelStreamErrorException", "The model broke."), "server_error"),
        (exception("internalServerException", "The model broke."), "server_error"),
        (exception("serviceUnavailableException", "The model broke."), "overloaded"),
        (exception("throttlingException", "The model broke."), "rate_limited"),
        (exception("validationException", "The model broke."), "bad_request"),
        (exception("somethingNewException", "The model broke."), "server_error"),
        (frame(b"", message_type="error", error_code="X", error_message="The model broke."), "server_error"),
    ],
)
def test_an_error_within_a_stream(told: bytes, kind: str) -> None:
    reader = provider().reader(HELLO)
    begun = event("messageStart", role="assistant") + event(
        "contentBlockDelta", delta={"text": "Hi"}, contentBlockIndex=0
    )
    assert len(reader.feed(begun + told + event("messageStop", stopReason="end_turn"))) == 0 or reader.fault
    assert reader.fault is not None
    assert (reader.fault.kind, reader.fault.message) == (kind, "The model broke.")
    assert not reader.finished
    assert reader.received == 1


@pytest.mark.parametrize(
    ("wrong", "model", "param"),
    [
        ({"n": 2}, CLAUDE, "n"),
        ({"seed": 3}, CLAUDE, "seed"),
        ({"logprobs": True}, CLAUDE, "logprobs"),
        ({"temperature": 1.5}, CLAUDE, "temperature"),
        ({"top_k": 3}, LLAMA, "top_k"),
        ({"reasoning_effort": "low"}, LLAMA, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, CLAUDE, "response_format"),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, LLAMA, "parallel_tool_calls"),
        ({"tool_choice": "required"}, CLAUDE, "tool_choice"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(wrong: dict[str, Any], model: str, param: str) -> None:
    with pytest.raises(Fault) as caught:
        sent({**HELLO, **wrong}, model)
    assert (caught.value.kind, caught.value.status, caught.value.param) == ("bad_request", 400, param)


@pytest.mark.parametrize("url", ["https://example.org/cat.png", "data:image/tiff;base64,AAAA"])
def test_pictures_must_be_data_of_a_known_kind(url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(Fault) as caught:
        sent({**HELLO, "messages": [{"role": "user", "content": content}]})
    assert caught.value.param == "messages.0.content.0"


def test_no_tool_may_be_called() -> None:
    plain = {**HELLO, "tools": [WEATHER], "tool_choice": "none"}
    assert "toolConfig" not in sent(plain)
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    turns = [
        *HELLO["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]
    used = sent({**plain, "messages": turns})
    assert used["additionalModelRequestFields"] == {"tool_choice": {"type": "none"}}
    assert "toolChoice" not in used["toolConfig"]
    with pytest.raises(Fault, match="tool_choice"):
        sent({**plain, "messages": turns}, LLAMA)
    unnamed = sent({**HELLO, "messages": turns})
    assert [tool["toolSpec"]["name"] for tool in unnamed["toolConfig"]["tools"]] == ["get_weather"]
    assert unnamed["additionalModelRequestFields"] == {"tool_choice": {"type": "none"}}
    with pytest.raises(Fault) as caught:
        sent({**HELLO, "messages": turns}, LLAMA)
    assert caught.value.param == "tools"


def test_one_call_of_a_forced_tool_at_a_time() -> None:
    forced = {"type": "function", "function": {"name": "get_weather"}}
    told = sent({**HELLO, "tools": [WEATHER], "tool_choice": forced, "parallel_tool_calls": False})
    assert "toolChoice" not in told["toolConfig"]
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    assert told["additionalModelRequestFields"] == {"tool_choice": choice}


def test_what_claude_clients_add_stays_for_claude_alone() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    said = {"role": "assistant", "content": "Hi", "thinking_blocks": [thought]}
    turns = [{"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}}, said, *HELLO["messages"]]
    body = Extended({**HELLO, "messages": turns, "thinking": {"type": "enabled", "budget_tokens": 1024}})
    told = sent(body)
    assert told["messages"][0]["content"][-1] == {"cachePoint": {"type": "default"}}
    reasoning = {"reasoningText": {"text": "Hm.", "signature": "s"}}
    assert told["messages"][1]["content"] == [{"reasoningContent": reasoning}, {"text": "Hi"}]
    assert told["additionalModelRequestFields"] == {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    other = sent(body, LLAMA)
    assert other["messages"][0]["content"] == [{"text": "Hi"}]
    assert other["messages"][1]["content"] == [{"text": "Hi"}]
    assert "additionalModelRequestFields" not in other


def test_foreign_ids_of_calls_are_made_to_fit_and_stay_pairs() -> None:
    long = "call/" + "x" * 100
    call = {"id": long, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": long, "content": ""}]
    told = sent({**HELLO, "messages": [*HELLO["messages"], *turns]})
    use, result = (told["messages"][number]["content"][0] for number in (1, 2))
    assert use["toolUse"]["toolUseId"] == result["toolResult"]["toolUseId"]
    assert len(use["toolUse"]["toolUseId"]) <= 64
    assert result["toolResult"]["content"] == []


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        ("amazon.titan-embed-text-v2:0", {"input": ["a", "b"]}, "input"),
        ("amazon.titan-embed-text-v2:0", {"input": "a", "input_type": "x"}, "input_type"),
        ("amazon.titan-embed-text-v2:0", {"input": [[1, 2]]}, "input.0"),
        ("anthropic.claude-opus-5", {"input": "a"}, "model"),
    ],
)
def test_embeddings_that_cannot_be_asked_for(model: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as caught:
        provider().build("embeddings", {"model": "r", **body}, any_target(model))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("given_", "url"),
    [
        ({"location": "eu-central-1"}, "https://bedrock-runtime.eu-central-1.amazonaws.com"),
        ({"location": "cn-north-1"}, "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        ({"location": "eu-west-1", "url": "https://vpce-1.example/x/"}, "https://vpce-1.example/x"),
    ],
)
def test_addresses(given_: dict[str, str], url: str) -> None:
    config = ProviderConfig.model_validate({"kind": "bedrock", "api_key": "env:X", **given_})
    assert config.base_url == url
    path = open_provider(config, None).build("chat", HELLO, any_target("m")).path
    assert path == ("/x" if "url" in given_ else "") + "/model/m/converse"


CHAT = (
    "messages role content type text tool_calls function arguments tools tool_choice stop stream response_format "
    "image_url url user assistant tool system id name tool_call_id input cache_control thinking_blocks thinking "
    "signature file file_data filename top_k reasoning_effort"
)
EVENT = (
    "output message content text toolUse toolUseId name input stopReason usage inputTokens outputTokens "
    "reasoningContent reasoningText redactedContent signature citationsContent trace promptRouter invokedModelId "
    "embedding embeddings float delta start contentBlockIndex role cacheDetails ttl"
)
EVENTS = ["messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata", "x"]


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=objects(CHAT), model=st.sampled_from([CLAUDE, LLAMA, "amazon.nova-lite", "cohere.embed-v4"]))
def test_any_json_as_a_request_is_said_or_refused(body: dict[str, Any], model: str) -> None:
    for operation in ("chat", "embeddings"):
        assert kind_of(lambda: provider().build(operation, body, any_target(model))) in (None, "bad_request")  # type: ignore[arg-type]  # noqa: B023


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=documents(EVENT))
def test_any_reply_is_read_or_invalid(data: bytes) -> None:
    for operation in ("chat", "embeddings"):
        assert kind_of(lambda: provider().reply(operation, data)) in (None, "invalid")  # type: ignore[arg-type]  # noqa: B023
    provider().fault(400, (), data)


@settings(max_examples=EXAMPLES, deadline=None)
@given(events=st.lists(st.tuples(st.sampled_from(EVENTS), objects(EVENT)), max_size=6))
def test_any_events_are_read_or_invalid(events: list[tuple[str, dict[str, Any]]]) -> None:
    reader = provider().reader(HELLO)
    data = b"".join(frame(json.dumps(told).encode(), message_type="event", event_type=name) for name, told in events)
    reader.feed(data)
    assert reader.fault is None or reader.fault.kind == "invalid"


def test_good_events_and_replies_with_one_thing_wrong() -> None:
    events = recorded("stream.json")
    for number, (name, told) in enumerate(events):
        for wrong in mutants(told):
            reader = provider().reader(HELLO)
            payload = json.dumps(wrong).encode()
            reader.feed(b"".join(event(before, **value) for before, value in events[:number]))
            reader.feed(frame(payload, message_type="event", event_type=name))
            assert reader.fault is None or reader.fault.kind == "invalid"
    for case in recorded("replies.json"):
        for wrong in mutants(case["body"]):
            body = json.dumps(wrong).encode()
            assert kind_of(lambda: provider().reply(case["operation"], body)) in (None, "invalid")  # noqa: B023

"""Any conversation that OpenAI's format allows is said in words that each provider's strict server takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.nonsense import ARGUMENTS, EXAMPLES, NAMES, TEXT
from tests.support.provider_calls import PIXEL, provider_of, target
from tests.support.upstreams.anthropic import AnthropicServer
from tests.support.upstreams.bedrock import BedrockServer
from tests.support.upstreams.cohere import CohereServer
from tests.support.upstreams.gemini import GeminiServer
from tests.support.upstreams.wire import KEY, Seen, WireServer, running

KINDS: dict[Any, type[WireServer]] = {
    "anthropic": AnthropicServer,
    "gemini": GeminiServer,
    "cohere": CohereServer,
    "bedrock": BedrockServer,
}

PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
CONTENT = TEXT | st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT) | st.just(PICTURE), min_size=1, max_size=3
)
IDS = st.from_regex(r"[a-zA-Z0-9_:.-]{1,20}", fullmatch=True)


@st.composite
def assistants(draw: st.DrawFn, used: set[str]) -> list[dict[str, Any]]:
    """What the model said, and the results of all its calls, in any order."""
    calls = []
    for name in draw(st.lists(NAMES, max_size=3)):
        id_ = draw(IDS) + str(len(used))
        used.add(id_)
        function = {"name": name, "arguments": json.dumps(draw(ARGUMENTS))}
        calls.append({"id": id_, "type": "function", "function": function})
    said: dict[str, Any] = {"role": "assistant", "content": draw(TEXT | st.just("") if calls else TEXT)}
    if not calls:
        return [said]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": draw(TEXT | st.just("") | st.just('{"a": [1]}'))}
        for call in calls
    ]
    return [{**said, "tool_calls": calls}, *results]


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    used: set[str] = set()
    messages: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            role = draw(st.sampled_from(["system", "developer"]))
            messages.append({"role": role, "content": draw(TEXT)})
        messages.append({"role": "user", "content": draw(CONTENT)})
        messages += draw(assistants(used))
    messages.append({"role": "user", "content": draw(CONTENT)})
    body: dict[str, Any] = {"model": "r", "messages": messages}
    if draw(st.booleans()):
        function = {"name": draw(NAMES), "parameters": {"type": "object", "properties": {}}}
        body["tools"] = [{"type": "function", "function": function}]
        forced = {"type": "function", "function": {"name": function["name"]}}
        body["tool_choice"] = draw(st.sampled_from(["auto", "required", "none", forced]))
    more = {
        "stop": st.sampled_from(["END", ["a", "b"]]),
        "max_tokens": st.integers(2, 5000),
        "temperature": st.floats(0, 1),
        "reasoning_effort": st.sampled_from(["none", "low", "medium", "high"]),
        "stream": st.booleans(),
        "response_format": st.just(
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
        ),
    }
    return {**body, **draw(st.fixed_dictionaries({}, optional=more))}


@pytest.fixture(scope="module", params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Any, WireServer]]:
    with running(KINDS[request.param]) as server:
        yield request.param, server


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=conversations())
def test_a_conversation_is_taken(server: tuple[Any, WireServer], body: dict[str, Any]) -> None:
    kind, upstream = server
    request = provider_of(kind, upstream).build("chat", body, target("a-claude-model"))
    headers = {name.decode(): value.decode() for name, value in request.headers}
    if kind == "bedrock":  # a signer's part
        headers["authorization"] = f"Bearer {KEY}"
    upstream.check(Seen(request.path, headers, request.body, json.loads(request.body)))

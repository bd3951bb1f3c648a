"""A whole answer said as a stream: the official SDKs put it together again as what it was."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import openai
import pytest

from llmops.gateway.cache import replayed
from llmops.gateway.calls import Operation

CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "tool_calls", "logprobs": None, "message": {
            "role": "assistant", "content": "Let me see – 😀", "refusal": None,
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}},
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "y"}'}},
            ]}},
        {"index": 1, "finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", "content": "No."}},
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}  # fmt: skip
TEXT = {
    "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "text": "once upon a time", "finish_reason": "length", "logprobs": None}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}  # fmt: skip
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Let me see – 😀"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": ["x", {"y": 1}]}},
    ],
    "stop_reason": "tool_use", "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 4},
}  # fmt: skip
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "error": None,
    "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0,
    "tool_choice": "auto", "tools": [], "top_p": 1.0,
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "Let me see – 😀", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c0", "name": "look", "arguments": '{"at": "x"}',
         "status": "completed"},
    ],
    "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7,
              "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}},
}  # fmt: skip
OPERATIONS: dict[str, tuple[Operation, dict[str, Any]]] = {
    "/v1/chat/completions": ("chat", CHAT),
    "/v1/completions": ("completions", TEXT),
    "/v1/messages": ("messages", MESSAGE),
    "/v1/responses": ("responses", RESPONSE),
}


@contextmanager
def door() -> Iterator[str]:
    """A server that replays the answers above as streams."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            operation, whole = OPERATIONS[self.path.partition("?")[0]]
            events = replayed(operation, whole, request)
            assert events is not None
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(events)))
            self.end_headers()
            self.wfile.write(events)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with door() as address:
        yield address


def test_chat(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client,
        client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "?"}], n=2, stream_options={"include_usage": True}
        ) as stream,
    ):
        whole = stream.get_final_completion().model_dump(exclude_unset=True)
    assert whole["usage"] == CHAT["usage"]
    for choice, expected in zip(whole["choices"], CHAT["choices"], strict=True):
        assert choice["finish_reason"] == expected["finish_reason"]
        assert choice["message"]["content"] == expected["message"]["content"]
        calls = [call["function"]["arguments"] for call in choice["message"].get("tool_calls") or ()]
        assert calls == [call["function"]["arguments"] for call in expected["message"].get("tool_calls", ())]


def test_usage_is_said_only_where_it_is_asked_for() -> None:
    plain = replayed("chat", CHAT, {})
    asked = replayed("chat", CHAT, {"stream_options": {"include_usage": True}})
    assert plain is not None
    assert asked is not None
    assert b"completion_tokens" not in plain
    assert b"completion_tokens" in asked
    assert plain.endswith(b"data: [DONE]\n\n")


def test_completions(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client:
        chunks = list(client.completions.create(model="m", prompt="?", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once upon a time"
    assert chunks[-1].choices[0].finish_reason == "length"


def test_messages(url: str) -> None:
    with (
        anthropic.Anthropic(base_url=url, api_key="k") as client,
        client.messages.stream(model="m", max_tokens=10, messages=[{"role": "user", "content": "?"}]) as stream,
    ):
        whole = stream.get_final_message().model_dump(exclude_unset=True)
    for block, expected in zip(whole["content"], MESSAGE["content"], strict=True):
        assert {name: block[name] for name in expected} == expected
    assert whole["stop_reason"] == "tool_use"
    assert whole["usage"]["output_tokens"] == 4


def test_responses(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client,
        client.responses.stream(model="m", input="?") as stream,
    ):
        kinds = [event.type for event in stream]
        whole = stream.get_final_response()
    assert whole.output_text == "Let me see – 😀"
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


@pytest.mark.parametrize("operation", ["embeddings", "rerank"])
def test_what_has_no_streams(operation: Operation) -> None:
    assert replayed(operation, {}, {}) is None

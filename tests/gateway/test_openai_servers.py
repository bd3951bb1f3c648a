"""Streams as the servers that copy OpenAI's format really send them, each with its own habits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llmops.gateway.calls import Usage
from llmops.gateway.config import ProviderConfig
from llmops.gateway.providers import open_provider


@dataclass(frozen=True)
class Sample:
    """What a server sends when asked for its usage, and what is to be understood of it."""

    raw: bytes
    text: str
    usage: Usage | None
    model: str
    own_usage_event: bool = True


def _lines(*events: str, end: str = "\n\n", start: str = "data: ", done: bool = True) -> bytes:
    told = [*events, "[DONE]"] if done else list(events)
    return "".join(f"{start}{event}{end}" for event in told).encode()


SAMPLES = {
    "vllm": Sample(
        _lines(
            '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,'
            '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}',
            '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,'
            '"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
            '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,'
            '"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}]}',
            '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[],'
            '"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2}}',
        ),
        "Hi",
        Usage(9, 2),
        "qwen",
    ),
    "ollama": Sample(
        _lines(
            '{"id":"chatcmpl-2","object":"chat.completion.chunk","created":1,"model":"llama3.2","system_fingerprint":'
            '"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}',
            '{"id":"chatcmpl-2","object":"chat.completion.chunk","created":1,"model":"llama3.2","system_fingerprint":'
            '"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop"}]}',
            '{"id":"chatcmpl-2","object":"chat.completion.chunk","created":1,"model":"llama3.2","system_fingerprint":'
            '"fp_ollama","choices":[],"usage":{"prompt_tokens":26,"completion_tokens":3,"total_tokens":29}}',
        ),
        "Hi",
        Usage(26, 3),
        "llama3.2",
    ),
    "llama.cpp": Sample(
        _lines(
            '{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,'
            '"id":"chatcmpl-3","model":"gpt-3.5-turbo","system_fingerprint":"b1","object":"chat.completion.chunk"}',
            '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hi"}}],"created":1,"id":"chatcmpl-3",'
            '"model":"gpt-3.5-turbo","system_fingerprint":"b1","object":"chat.completion.chunk"}',
            '{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1,"id":"chatcmpl-3","model":'
            '"gpt-3.5-turbo","system_fingerprint":"b1","object":"chat.completion.chunk"}',
            '{"choices":[],"created":1,"id":"chatcmpl-3","model":"gpt-3.5-turbo","object":"chat.completion.chunk",'
            '"usage":{"completion_tokens":2,"prompt_tokens":8,"total_tokens":10},"timings":{"prompt_n":8}}',
        ),
        "Hi",
        Usage(8, 2),
        "gpt-3.5-turbo",
    ),
    "no space after the colon": Sample(
        _lines(
            '{"object":"chat.completion.chunk","id":"","created":1,"model":"m","choices":[{"index":0,"delta":'
            '{"role":"assistant","content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}',
            '{"object":"chat.completion.chunk","id":"","created":1,"model":"m","choices":[{"index":0,"delta":'
            '{"role":"assistant","content":""},"logprobs":null,"finish_reason":"eos_token"}],"usage":null}',
            '{"object":"chat.completion.chunk","id":"","created":1,"model":"m","choices":[],"usage":'
            '{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}',
            start="data:",
        ),
        "Hi",
        Usage(7, 1),
        "m",
    ),
    "CRLF and spaces in the JSON": Sample(
        _lines(
            '{"id": "chatcmpl-4", "model": "m", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": '
            '{"content": "Hi"}, "logprobs": null, "finish_reason": null}]}',
            '{"id": "chatcmpl-4", "model": "m", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": '
            '{}, "logprobs": null, "finish_reason": "stop"}]}',
            end="\r\n\r\n",
        ),
        "Hi",
        None,
        "m",
        own_usage_event=False,
    ),
    "azure": Sample(
        _lines(
            '{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,'
            '"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}',
            '{"choices":[{"content_filter_results":{},"delta":{"content":"Hi"},"finish_reason":null,"index":0,'
            '"logprobs":null}],"created":1,"id":"chatcmpl-5","model":"gpt-4o-2024-08-06","obfuscation":"xYz",'
            '"object":"chat.completion.chunk","usage":null}',
            '{"choices":[{"content_filter_results":{},"delta":{},"finish_reason":"stop","index":0,"logprobs":null}],'
            '"created":1,"id":"chatcmpl-5","model":"gpt-4o-2024-08-06","object":"chat.completion.chunk","usage":null}',
            '{"choices":[],"created":1,"id":"chatcmpl-5","model":"gpt-4o-2024-08-06","object":"chat.completion.chunk",'
            '"usage":{"completion_tokens":1,"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":0},'
            '"total_tokens":6}}',
        ),
        "Hi",
        Usage(5, 1),
        "gpt-4o-2024-08-06",
    ),
    "deepseek": Sample(
        _lines(
            '{"id":"6","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,'
            '"delta":{"role":"assistant","content":null,"reasoning_content":""},"finish_reason":null}],"usage":null}',
            '{"id":"6","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,'
            '"delta":{"content":null,"reasoning_content":"Hm"},"finish_reason":null}],"usage":null}',
            '{"id":"6","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,'
            '"delta":{"content":"Hi","reasoning_content":null},"finish_reason":null}],"usage":null}',
            '{"id":"6","object":"chat.completion.chunk","created":1,"model":"deepseek-reasoner","choices":[{"index":0,'
            '"delta":{"content":"","reasoning_content":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,'
            '"completion_tokens":4,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":8},'
            '"completion_tokens_details":{"reasoning_tokens":2},"prompt_cache_hit_tokens":8}}',
        ),
        "Hi",
        Usage(10, 4, cached_tokens=8, reasoning_tokens=2),
        "deepseek-reasoner",
        own_usage_event=False,
    ),
    "comments while it waits": Sample(
        b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
        + _lines(
            '{"id":"gen-7","provider":"x","model":"a/b","object":"chat.completion.chunk","created":1,"choices":['
            '{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null,'
            '"native_finish_reason":null,"logprobs":null}]}',
            '{"id":"gen-7","provider":"x","model":"a/b","object":"chat.completion.chunk","created":1,"choices":['
            '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop",'
            '"native_finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":3,"completion_tokens":1,'
            '"total_tokens":4,"cost":0.0001}}',
        ),
        "Hi",
        Usage(3, 1),
        "a/b",
        own_usage_event=False,
    ),
    "usage with every chunk, and no [DONE]": Sample(
        _lines(
            '{"id":"8","model":"m","choices":[{"index":0,"delta":{"content":"H"},"finish_reason":null}],'
            '"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}',
            '{"id":"8","model":"m","choices":[{"index":0,"delta":{"content":"i"},"finish_reason":"stop"}],'
            '"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}',
            done=False,
        ),
        "Hi",
        Usage(3, 2),
        "m",
        own_usage_event=False,
    ),
}

_PROVIDER = open_provider(ProviderConfig(url="http://127.0.0.1:9/v1"), None)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_a_stream_passes_and_is_understood(name: str, size: int) -> None:
    sample = SAMPLES[name]
    asked = _PROVIDER.relay("chat", {"stream": True, "stream_options": {"include_usage": True}})
    parts = [sample.raw[start : start + size] for start in range(0, len(sample.raw), size)]
    assert b"".join(asked.feed(part) for part in parts) == sample.raw
    silent = _PROVIDER.relay("chat", {"stream": True})
    passed = b"".join(silent.feed(part) for part in parts)
    assert passed.count(b"data:") == sample.raw.count(b"data:") - sample.own_usage_event
    for relay in (asked, silent):
        assert (relay.usage, relay.model, relay.finished, relay.fault) == (sample.usage, sample.model, True, None)
        assert relay.received >= 1


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_a_stream_is_read_as_chunks(name: str, size: int) -> None:
    sample = SAMPLES[name]
    reader = _PROVIDER.reader({})
    parts = [sample.raw[start : start + size] for start in range(0, len(sample.raw), size)]
    chunks = [chunk for part in parts for chunk in reader.feed(part)]
    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == sample.text
    assert (reader.usage, reader.model, reader.finished, reader.fault) == (sample.usage, sample.model, True, None)
    told = [chunk for chunk in chunks if chunk.get("usage")]
    assert [chunk["choices"] for chunk in told] == ([] if sample.usage is None else [[]])
    assert not told or chunks[-1] is told[0]

"""OpenAI's own Python client, unmodified, against a real server: what it cannot read, its users cannot either."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.support.chain import Shelf, SmallChain
from tests.support.serving import Running, running

from llmops.core.chain import ChainContext
from llmops.core.errors import UnavailableError

QUESTION: Any = [{"role": "user", "content": "What happens to deleted documents?"}]


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="lk_one", max_retries=0) as opened:
        yield opened


def test_a_whole_answer(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="chat", messages=QUESTION, temperature=0.2, user="ann")

    (choice,) = completion.choices
    assert "Deleted documents leave the index" in (choice.message.content or "")
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert choice.message.refusal is None
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    extra = choice.message.model_extra or {}
    assert extra["citations"][0]["uri"] == "guide/ingest.pdf"
    raw = client.chat.completions.with_raw_response.create(model="chat", messages=QUESTION)
    about: Any = (raw.parse().model_extra or {})["llmops"]
    assert raw.headers["x-request-id"] == about["request_id"]


def test_a_streamed_answer(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="chat", messages=QUESTION).choices[0].message.content
    with client.chat.completions.create(
        model="chat", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        seen = list(chunks)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen if chunk.choices) == whole
    assert [chunk.choices[0].finish_reason for chunk in seen if chunk.choices][-1] == "stop"
    assert seen[-1].usage is not None
    assert seen[-1].usage.completion_tokens > 0


def test_the_stream_helper_puts_the_answer_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model="chat", messages=QUESTION) as events:
        told = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion()

    message = final.choices[0].message
    assert message.content == told
    cited: Any = (message.model_extra or {})["citations"]
    assert [(citation["index"], f"[{citation['number']}]" in told) for citation in cited] == [
        (place, True) for place in range(len(cited))
    ]
    assert cited
    assert "Deleted documents" in told


def test_the_asynchronous_client(server: Running) -> None:
    async def ask() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="lk_one", max_retries=0) as opened:
            whole = await opened.chat.completions.create(model="chat", messages=QUESTION)
            stream = await opened.chat.completions.create(model="chat", messages=QUESTION, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content or "", "".join(pieces)

    whole, streamed = asyncio.run(ask())
    assert whole == streamed != ""


def test_models(client: OpenAI) -> None:
    listed = list(client.models.list())

    assert [model.id for model in listed] == ["chat"]
    assert (listed[0].object, type(listed[0].created), listed[0].owned_by != "") == ("model", int, True)
    assert client.models.retrieve("chat") == listed[0]
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("chatt")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "kind", "code", "param"),
    [
        ({"model": "chatt"}, openai.NotFoundError, "model_not_found", "model"),
        ({"messages": []}, openai.BadRequestError, "invalid_request", "messages"),
        ({"n": 2}, openai.BadRequestError, "unsupported", "n"),
        ({"messages": [{"role": "user", "content": "x" * 8001}]}, openai.APIStatusError, "question_too_long", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_become_the_clients_own_errors(
    client: OpenAI,
    change: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str | None,
    stream: bool,
) -> None:
    asked: Any = {"model": "chat", "messages": QUESTION, "stream": stream, **change}
    with pytest.raises(kind) as refused:
        client.chat.completions.create(**asked)
    assert refused.value.code == code
    assert refused.value.type == "invalid_request_error"
    if param is not None:
        assert refused.value.param == param


def test_a_key_that_is_not_known(server: Running) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="lk_unknown", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(model="chat", messages=QUESTION)


def test_a_stream_that_breaks_off_raises(tmp_path: Path) -> None:
    def fail(piece: int, _context: ChainContext) -> None:
        if piece == 1:
            raise UnavailableError("the language model fell silent")

    with (
        running(tmp_path, Shelf({1: lambda: SmallChain(before_piece=fail)})) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="lk_one", max_retries=0) as client,
        pytest.raises(openai.APIError, match="fell silent"),
    ):
        list(client.chat.completions.create(model="chat", messages=QUESTION, stream=True))

"""A chain that asks its LLM through a route of the gateway: one question, and rows of both that join."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.chain import Shelf
from tests.support.faulty import INPUT_TOKENS, Scripted, scripted_upstream, status, stream
from tests.support.handbook import handbook
from tests.support.serving import Running, ask, eventually, running
from tests.support.worker import RunningWorker, route, running_worker

from llmops.rag.answer.prompt import DEFAULT_PROMPT
from llmops.rag.chain import RagChain
from llmops.rag.config import RagConfig
from llmops.rag.packaging import assemble

QUESTION = "Who designed the Aurora pump?"
TOLD = ("Ingrid Halvorsen ", "designed the Aurora pump ", "[1", "].")
KEYS = {"require_keys": True}


@pytest.fixture
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as server:
        server.answer = stream(TOLD, model="the-model-itself")
        yield server


def gateway(upstream: Scripted, **more: Any) -> dict[str, Any]:
    once = {"attempts": 1, "backoff_s": 0}
    return {"providers": {"first": {"url": upstream.url}}, "routes": [route("answers", retry=once)], **more}


def chain(job: str) -> RagChain:
    """The chain of a rag job over the handbook."""
    config = RagConfig.model_validate(yaml.safe_load(job))
    index, embedder = handbook()
    pinned = {
        "index": {"name": "dev.docs.index", "generation": "g1"},
        "prompt": {"ref": "dev.docs.chat_prompt/1", "text": DEFAULT_PROMPT.text},
        "retrieval": config.retrieval.model_dump(mode="json"),
        "answer": config.answer.model_dump(mode="json", exclude={"prompt_file"}),
    }
    return assemble(pinned, lambda: index, embedder)


def serving(folder: Path, worker: RunningWorker, more: str = "") -> Any:
    job = f"answer: {{llm: {{model: answers, url: '{worker.url}/v1'{more}}}}}"
    return running(folder, Shelf({1: lambda: chain(job)}))  # type: ignore[dict-item]


def rows_of(server: Running, worker: RunningWorker, request_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    def found(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((row for row in rows if row["request_id"] == request_id), None)

    return eventually(lambda: found(server.log()), 60), eventually(lambda: found(worker.rows()), 60)


def test_a_cited_answer_through_a_route_leaves_rows_that_join(tmp_path: Path, upstream: Scripted) -> None:
    with (
        running_worker(tmp_path, **gateway(upstream)) as worker,
        serving(tmp_path / "serving", worker) as server,
        server.client() as client,
    ):
        answer = ask(client, QUESTION)
        message = answer["choices"][0]["message"]
        assert message["content"] == "".join(TOLD)
        assert message["citations"][0]["text"] == "The Aurora pump was designed by Ingrid Halvorsen in 1987."
        served, called = rows_of(server, worker, answer["llmops"]["request_id"])
        assert (served["layer"], called["layer"]) == ("serving", "gateway")
        assert called["parent_invocation_id"] == served["invocation_id"] != called["invocation_id"]
        assert called["endpoint"] == "answers"
        assert called["model_version"] == "the-model-itself"
        assert (called["input_tokens"], called["output_tokens"]) == (INPUT_TOKENS, len(TOLD))
        assert Decimal(called["cost_usd"]) == Decimal(INPUT_TOKENS + 2 * len(TOLD)) / 1_000_000
        assert QUESTION in called["request_json"]
        assert len(upstream.asked) == 1


def test_a_route_that_fails_is_the_chains_upstream_error(tmp_path: Path, upstream: Scripted) -> None:
    upstream.answer = status(400, message="the prompt is not to my taste")
    with (
        running_worker(tmp_path, **gateway(upstream)) as worker,
        serving(tmp_path / "serving", worker) as server,
        server.client() as client,
    ):
        body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
        reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 502
        served, called = rows_of(server, worker, reply.headers["x-request-id"])
        assert (served["status_code"], called["status_code"]) == (502, 400)
        assert called["parent_invocation_id"] == served["invocation_id"]


@pytest.mark.parametrize("scopes", [{"gateway", "gateway:ids"}, {"gateway"}], ids=["trusted", "not trusted"])
def test_only_keys_that_may_set_ids_join_the_rows(
    tmp_path: Path, upstream: Scripted, scopes: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_worker(tmp_path, **gateway(upstream), **KEYS) as worker:
        monkeypatch.setenv("LLMOPS_TEST_ROUTE_KEY", worker.key(scopes=frozenset(scopes)))
        with (
            serving(tmp_path / "serving", worker, ", api_key: 'env:LLMOPS_TEST_ROUTE_KEY'") as server,
            server.client() as client,
        ):
            request_id = ask(client, QUESTION)["llmops"]["request_id"]
            (called,) = worker.rows(1)
            (served,) = eventually(server.log, 60)
            assert called["client_request_id"] == request_id
            trusted = "gateway:ids" in scopes
            assert (called["request_id"] == request_id) is trusted
            assert called.get("parent_invocation_id") == (served["invocation_id"] if trusted else None)

"""Asking over HTTP: whole and streamed answers, citations, the row in the log, and what is refused."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support.chain import Shelf, SmallChain
from tests.support.serving import Running, ask, question, running, stream

from llmops.core.convert import to_arrow
from llmops.core.tables import spec_of


def test_a_whole_answer_carries_its_citations_and_its_version(server: Running) -> None:
    with server.client() as client:
        completion = ask(client)
    message = completion["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert "Deleted documents leave the index" in message["content"]
    first = message["citations"][0]
    assert first["number"] == 1
    assert (first["uri"], first["page"]) == ("guide/ingest.pdf", 3)
    assert f"[{first['number']}]" in message["content"]
    assert completion["object"] == "chat.completion"
    assert completion["model"] == "chat"
    assert completion["choices"][0]["finish_reason"] == "stop"
    about = completion["llmops"]
    assert (about["asset"], about["version"], about["alias"]) == ("dev.docs.chat", 1, "champion")
    assert (about["generation"], about["index_seq"], about["quoted"]) == ("g1", 12, True)
    assert completion["usage"]["total_tokens"] == sum(
        completion["usage"][kind] for kind in ("prompt_tokens", "completion_tokens")
    )


def test_a_streamed_answer_says_the_same_piece_by_piece(server: Running) -> None:
    with server.client() as client:
        whole = ask(client)["choices"][0]["message"]
        chunks = stream(client, question())
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    cited = [citation for delta in deltas for citation in delta.get("citations", [])]
    assert [citation.pop("index") for citation in cited] == list(range(len(cited)))
    assert cited == whole["citations"] == chunks[-1]["citations"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[0]["llmops"]["version"] == 1
    assert chunks[-1]["llmops"]["index_seq"] == 12


def test_each_citation_follows_its_marker(server: Running) -> None:
    with server.client() as client:
        chunks = stream(client, question())
    told = ""
    for delta in (chunk["choices"][0]["delta"] for chunk in chunks):
        told += delta.get("content", "")
        for citation in delta.get("citations", []):
            assert told.rstrip().endswith(f"[{citation['number']}]")


def test_usage_comes_in_a_chunk_of_its_own_where_asked_for(server: Running) -> None:
    with server.client() as client:
        with_usage = stream(client, question(stream_options={"include_usage": True}))
        without = stream(client, question())
    assert with_usage[-1]["choices"] == []
    assert with_usage[-1]["usage"]["completion_tokens"] > 0
    assert all("usage" not in chunk for chunk in without)


def test_every_exchange_leaves_one_row_that_fits_the_table(server: Running) -> None:
    before = len(server.log())
    with server.client() as client:
        completion = ask(client, llmops={"session_id": "s-1"})
        stream(client, question())
    rows = server.log()[before:]
    assert len(rows) == 2
    table, bad = to_arrow(spec_of(server.config.inference_log), rows)
    assert bad == []
    assert table.num_rows == 2
    row = rows[0]
    assert row["request_id"] == completion["llmops"]["request_id"]
    assert (row["layer"], row["endpoint"], row["requester"]) == ("serving", "chat", "local")
    assert (row["asset_kind"], row["asset_name"], row["asset_version"]) == ("chain", "dev.docs.chat", 1)
    assert (row["alias_at_serve"], row["variant"], row["assignment_p"]) == ("champion", "champion", 1.0)
    assert (row["prompt_version"], row["index_version"]) == ("7", "g1/12")
    assert (row["status_code"], row["error_class"], row["session_id"]) == (200, None, "s-1")
    assert 0 < row["ttfb_ms"] <= row["latency_ms"]
    assert orjson.loads(row["request_json"])["messages"] == question()["messages"]
    answered = orjson.loads(row["response_json"])
    assert answered["content"] == completion["choices"][0]["message"]["content"]
    assert answered["citations"] == completion["choices"][0]["message"]["citations"]
    assert answered["passages"][0]["uri"] == "guide/ingest.pdf"
    assert len({row["invocation_id"] for row in rows}) == 2


def test_parts_of_text_and_developer_messages_are_understood(server: Running) -> None:
    parts = [{"type": "text", "text": "What happens to "}, {"type": "text", "text": "deleted documents?"}]
    messages = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    with server.client() as client:
        response = client.post("/v1/chat/completions", json={"model": "chat", "messages": messages})
    assert "Deleted documents" in response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("body", "status", "code", "where"),
    [
        (question(model="chatt"), 404, "model_not_found", "model"),
        ({"model": "chat", "messages": []}, 400, "invalid_request", "messages"),
        ({"model": "chat", "messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_request", "messages.0.role"),
        (question("   "), 400, "no_question", "messages"),
        ({"model": "chat", "messages": [{"role": "assistant", "content": "x"}]}, 400, "no_question", "messages"),
        (question("x" * 8001), 413, "question_too_long", "messages.0.content"),
        (question(tools=[{"type": "function"}]), 400, "unsupported", "tools"),
        (question(n=2), 400, "unsupported", "n"),
        (
            {"model": "chat", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "unsupported",
            "messages.0.content.0",
        ),
        (question(llmops={"sessionid": "x"}), 400, "invalid_request", "llmops.sessionid"),
        ({"model": "chat", "messages": [{"role": "user", "content": "x"}] * 401}, 413, "too_large", "messages"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_shape(
    server: Running, body: dict[str, Any], status: int, code: str, where: str
) -> None:
    with server.client() as client:
        response = client.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, where)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_a_wrong_name_gets_a_hint(server: Running) -> None:
    with server.client() as client:
        response = client.post("/v1/chat/completions", json=question(model="chatt"))
    assert "did you mean `chat`?" in response.json()["error"]["message"]


def test_models_lists_the_endpoints(server: Running) -> None:
    with server.client() as client:
        listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["chat"]
    assert listed["data"][0]["llmops"] == {"asset": "dev.docs.chat", "alias": "champion", "version": 1}


def test_health_readiness_metrics_and_openapi(server: Running) -> None:
    with server.client() as client:
        ask(client)
        assert client.get("/healthz").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["endpoints"]["chat"]["serving"]) == (200, "dev.docs.chat/1")
        metrics = client.get("/metrics").text
        assert 'llmops_answers_total{endpoint="chat",status="200"}' in metrics
        assert 'llmops_endpoint_version{endpoint="chat"} 1.0' in metrics
        paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/feedback", "/v1/passages", "/v1/models"} <= set(paths)


def test_half_an_emoji_passes_through(state: Path) -> None:
    class Halves(SmallChain):
        def _pieces(self, messages: Any, passages: Any, context: Any) -> Any:
            yield from ("smile ", "\ud83d", "\ude00")

    with running(state, Shelf({1: Halves})) as server, server.client() as client:
        text = ask(client)["choices"][0]["message"]["content"]
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in stream(client, question())]
        rows = server.log()
    assert text == "smile \U0001f600"
    assert "".join(pieces) == "smile \U0001f600"
    assert [orjson.loads(row["response_json"])["content"] for row in rows] == ["smile \U0001f600"] * 2


def test_a_passage_opens_for_whom_may_read_it(server: Running) -> None:
    with server.client() as client:
        citation = ask(client)["choices"][0]["message"]["citations"][0]
        span = {"model": "chat", **{key: citation[key] for key in ("uri", "start", "end", "page", "text")}}
        view = client.get("/v1/passages", params=span).json()
        assert view["text"][view["highlight_start"] : view["highlight_end"]] == citation["text"]
        assert (view["title"], view["page"]) == ("Refreshing the index", 3)
        secret = {"model": "chat", "uri": "hr/salaries.docx", "start": 0, "end": 10}
        missing = {**secret, "uri": "hr/nowhere.docx"}
        denied, absent = client.get("/v1/passages", params=secret), client.get("/v1/passages", params=missing)
        board = client.get("/v1/passages", params=secret, headers={"authorization": "Bearer lk_board"})
    assert denied.status_code == absent.status_code == 404
    assert denied.json()["error"]["message"] == absent.json()["error"]["message"]
    assert board.status_code == 200


def test_a_request_id_is_taken_over_from_trusted_keys_only(server: Running) -> None:
    mine = str(uuid.uuid4())
    headers = {"x-request-id": mine}
    with server.client() as client:
        untrusted = client.post("/v1/chat/completions", json=question(), headers=headers)
        trusted = client.post(
            "/v1/chat/completions", json=question(), headers={**headers, "authorization": "Bearer lk_trusted"}
        )
        broken = client.post(
            "/v1/chat/completions",
            json=question(),
            headers={"x-request-id": "no uuid", "authorization": "Bearer lk_trusted"},
        )
    assert untrusted.headers["x-request-id"] != mine
    assert trusted.headers["x-request-id"] == trusted.json()["llmops"]["request_id"] == mine
    assert broken.status_code == 400
    rows = {row["request_id"]: row for row in server.log()}
    assert rows[untrusted.headers["x-request-id"]]["client_request_id"] == mine
    assert rows[mine]["requester"] == "key:trusted"

"""One question, one tree of spans: over a real collector, a real LLM server, and with either of them gone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.support.collector import running_collector, tree
from tests.support.handbook import handbook
from tests.support.serving import Shelf, ask, running
from tests.support.upstream import Reply, running_upstream

from llmops.core import tracing_otel
from llmops.core.errors import ConfigError
from llmops.core.llm import LlmClient, LlmEndpoint
from llmops.core.tracing import TracingConfig, read_traceparent, span, tracing
from llmops.rag.answer.condense import condense_by_rule
from llmops.rag.answer.llm import LlmAnswerer
from llmops.rag.answer.prompt import DEFAULT_PROMPT
from llmops.rag.chain import ChainParts, RagChain
from llmops.rag.config import AnswerConfig, RetrievalConfig
from llmops.rag.hops import LlmPlanner
from llmops.rag.retrieve import Retriever

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUESTION = "Who designed the Aurora pump?"
CHAT = "chat small"
LAST_WORDS_MS = tracing_otel._LAST_WORDS_MS


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A collector of a test is never given up for being slow."""
    monkeypatch.setattr(tracing_otel, "_LAST_WORDS_MS", 60_000)
    monkeypatch.setattr(tracing_otel, "_TIMEOUT_S", 60.0)


def chain_over(url: str) -> RagChain:
    index, embedder = handbook()
    client = LlmClient(LlmEndpoint(url, "small", timeout_s=60, attempts=1))
    return RagChain(
        ChainParts(
            reader=lambda: index,
            retriever=Retriever(lambda: index, embedder, RetrievalConfig(hops=2)),
            answerer=LlmAnswerer(client, DEFAULT_PROMPT, embedder, 3000),
            condense=lambda question, history, context: condense_by_rule(question, history),
            config=AnswerConfig(),
            version_info={"index_version": "docs.index"},
            planner=LlmPlanner(client),
        )
    )


def replies(upstream) -> None:
    """One more search where the planner is asked, else an answer."""

    def answer(seen):
        plans = seen.messages[0]["content"].startswith("You plan the searches")
        return Reply(('{"search": "Aurora pump materials"}' if plans else "It was Ines Vidal [1].",))

    upstream.answer = answer


def asked(spans):
    """The spans of the question's own trace; the warm-up of a version has one too."""
    root = next(one for one in spans if one.name == "invoke_workflow chat")
    return [one for one in spans if one.trace == root.trace]


def test_one_question_is_one_tree_under_the_callers_span(tmp_path):
    with running_upstream() as upstream, running_collector() as collector:
        replies(upstream)
        config = TracingConfig(exporter="otlp", url=collector.url)
        shelf = Shelf({1: lambda: chain_over(upstream.url)})
        with tracing(config, "llmops-serving"), running(tmp_path, shelf) as server, server.client() as client:
            body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
            client.post("/v1/chat/completions", json=body, headers={"traceparent": CALLER}).raise_for_status()
            row = server.log()[0]
        spans = asked(collector.wait("invoke_workflow chat"))
        sent = [
            seen.headers["traceparent"] for seen in upstream.requests if CALLER[3:35] in seen.headers["traceparent"]
        ]
    search = {"embeddings": {}, "search": {"dense": {}, "lexical": {}, "fuse": {}}, "rerank": {}}
    assert tree(spans) == {
        "invoke_workflow chat": {
            "condense": {},
            "retrieval docs.index": search,
            "plan": {CHAT: {}},
            "answer": {"prompt": {}, CHAT: {}},
        }
    }
    assert [one.name for one in spans].count("retrieval docs.index") == 2
    assert {one.trace for one in spans} == {CALLER[3:35]} == {row["trace_id"]}
    root = next(one for one in spans if one.kind == 2)
    assert root.parent == CALLER[36:52]
    calls = [one for one in spans if one.name == CHAT]
    assert sent == [f"00-{one.trace}-{one.id}-01" for one in calls]
    for call in calls:
        assert call.kind == 3
        told = call.attributes
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.request.model"] == "small"
        assert told["gen_ai.usage.input_tokens"] > 0
        assert told["gen_ai.usage.output_tokens"] > 0
        assert told["gen_ai.response.finish_reasons"] == ["stop"]
        assert told["server.address"] == "127.0.0.1"
    found = next(one for one in spans if one.name.startswith("retrieval")).attributes
    assert found["gen_ai.operation.name"] == "retrieval"
    assert found["llmops.retrieval.passages"] > 0
    everything = json.dumps([one.attributes for one in spans])
    assert "Aurora" not in everything, "what is asked and found is private"
    assert "Vidal" not in everything


def test_content_is_told_where_it_is_asked_for(tmp_path):
    with running_upstream() as upstream, running_collector() as collector:
        replies(upstream)
        config = TracingConfig(exporter="otlp", url=collector.url, content=True)
        shelf = Shelf({1: lambda: chain_over(upstream.url)})
        with tracing(config, "llmops-serving"), running(tmp_path, shelf) as server, server.client() as client:
            ask(client, QUESTION)
        spans = asked(collector.wait("invoke_workflow chat"))
    root = next(one for one in spans if one.kind == 2)
    assert json.loads(root.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": QUESTION}]}
    ]
    assert "Vidal" in root.attributes["gen_ai.output.messages"]
    searches = [one.attributes for one in spans if one.name.startswith("retrieval")]
    assert [one["gen_ai.retrieval.query.text"] for one in searches] == [QUESTION, "Aurora pump materials"]
    assert json.loads(searches[0]["gen_ai.retrieval.documents"])[0]["id"]


def test_a_step_that_fails_says_so_by_its_code_and_every_span_ends(tmp_path):
    with running_upstream() as upstream, running_collector() as collector:
        upstream.answer = lambda seen: Reply(status=400, error="secret words")
        config = TracingConfig(exporter="otlp", url=collector.url)
        shelf = Shelf({1: lambda: chain_over(upstream.url)})
        with tracing(config, "llmops-serving"), running(tmp_path, shelf) as server, server.client() as client:
            body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
            assert client.post("/v1/chat/completions", json=body).status_code >= 400
        spans = asked(collector.wait("invoke_workflow chat"))
    failed = {one.name: one.attributes["error.type"] for one in spans if one.failed}
    assert set(failed) == {CHAT, "plan", "invoke_workflow chat"}
    assert "secret words" not in json.dumps([one.attributes for one in spans])


@pytest.mark.parametrize("state", ["gone", "refusing", "silent"])
def test_a_collector_that_does_not_take_spans_costs_no_answer_and_no_wait(tmp_path, monkeypatch, state):
    """The silent one answers after the block: whoever waited for it would wait for ever."""
    assert LAST_WORDS_MS == 2_000
    monkeypatch.setattr(tracing_otel, "_LAST_WORDS_MS", 50)
    monkeypatch.setattr(tracing_otel, "_TIMEOUT_S", 600.0)
    with running_upstream() as upstream, running_collector() as collector:
        url, collector.status = collector.url, 503
        if state == "gone":
            url = "http://127.0.0.1:9"
        if state == "silent":
            collector.answering.clear()
        upstream.answer = lambda seen: Reply(("It was Ines Vidal [1].",))
        shelf = Shelf({1: lambda: chain_over(upstream.url)})
        with (
            tracing(TracingConfig(exporter="otlp", url=url, queue=64), "llmops-serving"),
            running(tmp_path, shelf) as server,
            server.client() as client,
        ):
            for _ in range(12):
                assert "Vidal" in ask(client, QUESTION)["choices"][0]["message"]["content"]
            from llmops.core import tracing as module

            assert len(module._tracer._processor._batch_processor._queue) <= 64
            assert len(server.log()) == 12
        assert collector.answering.is_set() is (state != "silent")


def test_tracing_off_imports_nothing_and_passes_the_callers_trace_on(tmp_path):
    with running_upstream() as upstream:
        replies(upstream)
        shelf = Shelf({1: lambda: chain_over(upstream.url)})
        with tracing(TracingConfig(), "llmops-serving"), running(tmp_path, shelf) as server, server.client() as client:
            body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
            for shown in (CALLER, "no trace\tat all"):
                client.post("/v1/chat/completions", json=body, headers={"traceparent": shown}).raise_for_status()
        assert [seen.headers.get("traceparent") for seen in upstream.requests].count(CALLER) == 2
        assert {seen.headers.get("traceparent") for seen in upstream.requests} == {CALLER, None}
    assert span("a") is span("b", {"c": 1})
    program = (
        "import sys, llmops.rag.chain, llmops.core.llm\n"
        "from llmops.core.tracing import span\n"
        "with span('a'): pass\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
        "import llmops.serving.server  # FastAPI asks for the API, which does nothing by itself\n"
        "assert 'opentelemetry.sdk' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_spans_are_written_as_lines_of_a_file(tmp_path):
    path = tmp_path / "traces.jsonl"
    with tracing(TracingConfig(exporter="file", path=str(path)), "test"), span("outer", {"n": 1}), span("inner"):
        pass
    inner, outer = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert inner["parent_id"] == outer["context"]["span_id"]
    assert outer["attributes"] == {"n": 1}


def test_a_share_of_the_traces_is_kept_unless_the_caller_decided(tmp_path):
    path = tmp_path / "traces.jsonl"
    with tracing(TracingConfig(exporter="file", path=str(path), sample=0), "test"):
        with span("left out") as dropped:
            assert not dropped.recording
        with span("decided", parent=CALLER):
            pass
    assert [json.loads(line)["name"] for line in path.read_text(encoding="utf-8").splitlines()] == ["decided"]


def test_headers_are_references_and_what_is_no_trace_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("COLLECTOR_TOKEN", "very-secret")
    with running_collector() as collector:
        config = TracingConfig(
            exporter="mlflow", url=collector.url, experiment="7", headers={"authorization": "env:COLLECTOR_TOKEN"}
        )
        assert "very-secret" not in repr(config)
        with tracing(config, "test"), span("a"):
            pass
        collector.wait("a")
        assert collector.paths == ["/v1/traces"]
        assert collector.headers[0]["authorization"] == "very-secret"
        assert collector.headers[0]["x-mlflow-experiment-id"] == "7"
    with pytest.raises((ConfigError, ValueError)):
        TracingConfig(exporter="otlp", url="http://x", headers={"authorization": "plain"})
    with pytest.raises(ValueError, match="url"):
        TracingConfig(exporter="otlp")
    for broken in (
        None,
        "",
        CALLER + "0",
        CALLER.upper(),
        "00-" + "0" * 32 + CALLER[35:],
        CALLER[:36] + "0" * 16 + "-01",
    ):
        assert read_traceparent(broken) is None
    assert read_traceparent(CALLER) == CALLER

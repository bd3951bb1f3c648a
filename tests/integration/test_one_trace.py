"""One question, one trace: from the server's door over retrieval and the model's call to the gateway's attempts."""

from __future__ import annotations

from pathlib import Path

from tests.serving.test_tracing import CALLER, QUESTION, asked, chain_over
from tests.support.collector import Collector, Seen, running_collector, tree
from tests.support.gateway import eventually, write_config
from tests.support.gateway import running as running_gateway
from tests.support.serving import Shelf, running
from tests.support.upstream import Reply, running_upstream

from llmops.core.drain import Drainer
from llmops.core.state import StateConfig
from llmops.core.tracing import TracingConfig, tracing


def settled(collector: Collector) -> list[Seen]:
    """The question's spans, once both processes have told theirs."""
    wanted = {"invoke_workflow chat": 1, "chat medium": 4}  # two calls of the model, each failing once before

    def found() -> list[Seen]:
        names = [span.name for span in collector.spans]
        if any(names.count(name) < count for name, count in wanted.items()):
            return []
        return asked(list(collector.spans))

    return eventually(found)


def test_a_question_is_one_tree_down_to_the_providers_attempts(tmp_path: Path) -> None:
    """Also where another process drains the gateway's rows."""
    with running_upstream() as upstream, running_collector() as collector:
        calls: dict[str, int] = {}

        def answer(seen):
            told = seen.headers["traceparent"][:35] + str(len(seen.messages)) + seen.messages[0]["content"][:20]
            calls[told] = calls.get(told, 0) + 1
            if calls[told] == 1:
                return Reply(status=500, error="once more")
            plans = seen.messages[0]["content"].startswith("You plan the searches")
            return Reply(('{"search": "Aurora pump materials"}' if plans else "It was Ines Vidal [1].",))

        upstream.answer = answer
        otlp = {"exporter": "otlp", "url": collector.url}
        file = tmp_path / "gateway.yaml"
        targets = [{"provider": "near", "model": "medium", "price": {"input": 1, "output": 1}}]
        retry = {"attempts": 2, "backoff_s": 0.001}
        write_config(
            file,
            providers={"near": {"url": upstream.url, "traceparent": True}},
            routes=[{"name": "small", "targets": targets, "retry": retry}],
            tracing=otlp,
        )
        state = StateConfig(dir=tmp_path / "state")
        with Drainer(state) as drainer, running_gateway(file, "real") as gateway:
            shelf = Shelf({1: lambda: chain_over(f"{gateway.url}/v1")})
            config = TracingConfig.model_validate(otlp)
            with (
                tracing(config, "llmops-serving"),
                running(tmp_path / "serving", shelf) as server,
                server.client() as client,
            ):
                body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
                client.post("/v1/chat/completions", json=body, headers={"traceparent": CALLER}).raise_for_status()
                (row,) = eventually(server.log)
            drainer.wake()
            spans = settled(collector)
    gateways = {"chat small": {"chat small": {"chat medium": {}}}}  # the chain's call, the gateway's, its attempts
    found = tree(spans)["invoke_workflow chat"]
    assert found["plan"] == gateways
    assert found["answer"] == {"prompt": {}, **gateways}
    assert {span.trace for span in spans} == {CALLER[3:35]} == {row["trace_id"]}
    attempts = [span for span in spans if span.name == "chat medium"]
    assert sorted(span.failed for span in attempts) == [False, False, True, True]
    assert {span.attributes["llmops.attempt"] for span in attempts} == {1, 2}
    told = [seen.headers["traceparent"] for seen in upstream.requests if CALLER[3:35] in seen.headers["traceparent"]]
    assert sorted(told) == sorted(f"00-{span.trace}-{span.id}-01" for span in attempts)

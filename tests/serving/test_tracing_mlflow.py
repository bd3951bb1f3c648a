"""Spans reach a real MLflow store through the door that its server keeps for OpenTelemetry."""

from __future__ import annotations

import threading

import pytest
import uvicorn
from fastapi import FastAPI
from tests.gateway.test_traces import Log, a_row

from llmops.core import tracing_otel
from llmops.core.listen import address, listening
from llmops.core.tracing import TracingConfig, span, tracing


def tell_of_the_gateway(folder, config, caller):
    """The gateway's part of the trace, out of its log."""
    log = Log(folder / "gateway", config)
    _, trace, parent, _ = caller.split("-")
    log.write(a_row(trace_id=trace, tags=a_row()["tags"] | {"parent_span": parent}))
    traces = log.traces()
    traces.look()
    assert traces.sent == 1


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own store
def test_mlflow_shows_the_tree_its_kinds_and_its_tokens(tmp_path, monkeypatch):
    import mlflow
    from mlflow.server import handlers
    from mlflow.server.otel_api import otel_router

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setattr(handlers, "_tracking_store", None)
    handlers.initialize_backend_stores(uri, None, str(tmp_path))
    app = FastAPI()
    app.include_router(otel_router)
    monkeypatch.setattr(tracing_otel, "_LAST_WORDS_MS", 60_000)
    monkeypatch.setattr(tracing_otel, "_TIMEOUT_S", 60.0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with listening("127.0.0.1", 0) as listener:
        listener.listen()  # whoever comes before the server is ready waits, and is not turned away
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            config = TracingConfig(exporter="mlflow", url=address(listener), experiment="0")
            usage = {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 3}
            with tracing(config, "test"), span("invoke_workflow chat", kind="server"):
                with span("retrieval docs.index", {"gen_ai.operation.name": "retrieval"}), span("embeddings"):
                    pass
                with span("chat small", {"gen_ai.operation.name": "chat", **usage}, kind="client") as asked:
                    pass
            tell_of_the_gateway(tmp_path, config, asked.traceparent)
            (trace,) = mlflow.MlflowClient(tracking_uri=uri).search_traces(locations=["0"])
        finally:
            server.should_exit = True
            thread.join()
    by_id = {one.span_id: one.name for one in trace.data.spans}
    assert len(by_id) == 6
    assert {one.name: by_id.get(one.parent_id) for one in trace.data.spans} == {
        "invoke_workflow chat": None,
        "retrieval docs.index": "invoke_workflow chat",
        "embeddings": "retrieval docs.index",
        "chat small": "invoke_workflow chat",
        "chat fast": "chat small",
        "chat big": "chat fast",
    }
    assert trace.info.token_usage["total_tokens"] == 8

"""Ingest as a task: refreshed and registered, in the run's state, with nobody crowned before the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.embedder import WordEmbedder

from llmops.core.errors import UserError
from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.rag import tasks
from llmops.rag.ingest import refresh as refreshing
from llmops.registry import Registry
from llmops.registry.workflow import TaskContext, targets


def context(state: StateConfig, **settings: Any) -> TaskContext:
    return TaskContext("run", "flow", "ingest", 1, settings, {}, "dev", state, LOCAL)


def test_an_index_is_refreshed_and_its_chain_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = refreshing.refresh
    words = refreshing.Options(embedder=WordEmbedder())
    monkeypatch.setattr(refreshing, "refresh", lambda index, state, _: before(index, state, words))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "pump.md").write_text("# Aurora\n\nThe Aurora pump was designed in 1987.\n")
    (tmp_path / "rag.yaml").write_text("job: rag\nindex: {sources: [{path: docs}]}\n")
    state = StateConfig(dir=tmp_path / "state")
    given = tasks.ingest(context(state, config="rag.yaml", set={"retrieval.top_k": 3}))
    assert (given["version"], given["index"], given["chunks"]) == ("dev.docs.chat/1", "dev.docs.index/1", 1)
    assert tasks.ingest(context(state, config="rag.yaml", set={"retrieval.top_k": 3}))["version"] == given["version"]
    assert tasks.ingest(context(state, config="rag.yaml"))["version"] == "dev.docs.chat/2"
    with Registry(state) as registry:
        assert registry.alias("dev.docs.chat", "champion") is None
    assert not (tmp_path / ".llmops").exists()


def test_it_is_known_by_name() -> None:
    assert targets.target("ingest", None) == "llmops.rag.tasks:ingest"
    with pytest.raises(UserError, match="unknown settings: conf"):
        tasks.ingest(context(StateConfig(), conf="x"))

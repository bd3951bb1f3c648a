"""The refreshing machine's side of a cluster, with an engine that carries the stages out in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.support.indexes import NAME, Workplace, contents

from llmops.core.errors import IntegrityError, LlmopsError, UnavailableError
from llmops.core.state import StateConfig
from llmops.rag.compute import cluster, stages
from llmops.rag.compute.cluster import Stage
from llmops.rag.config import ChunkingConfig, ComputeConfig, FolderSource, IndexConfig
from llmops.rag.ingest.refresh import Options, Refresh, refresh

Spoil = Callable[[pa.Table], pa.Table]
MANY = cluster._FEW_DOCUMENTS + 8


class Straight:
    """Carries the tables out one after the other, the last first, as they might come from anywhere."""

    slots = 2

    def __init__(self, spoil: Spoil = lambda table: table) -> None:
        self.tables = self.closed = 0
        self._spoil = spoil

    def map(self, tables: list[pa.Table], stage: Stage) -> Iterator[pa.Table]:
        for table in reversed(tables):
            self.tables += 1
            yield self._spoil(stage(table))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    place = Workplace.at(tmp_path)
    for number in range(MANY):
        place.write(f"d{number}.md", f"# Title {number}\n\n" + f"alpha {number} river budget " * 40)
    (place.docs / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    return place


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Workers keep what they opened; each test is another worker."""
    yield
    stages._embedders.clear()
    while stages._parsers:
        stages._parsers.popitem()[1].close()


def elsewhere(place: Workplace, engine: Straight, monkeypatch: pytest.MonkeyPatch) -> Refresh:
    monkeypatch.setattr(cluster, "_open_engine", lambda config: engine)
    config = IndexConfig(
        name=NAME,
        sources=(FolderSource(path=str(place.docs)),),
        chunking=ChunkingConfig(size_chars=200),
        compute=ComputeConfig(engine="ray"),
    )
    return refresh(config, state_of(place), Options(embedder=place.embedder))


def state_of(place: Workplace) -> StateConfig:
    return StateConfig(dir=place.docs.parent / "elsewhere")


def test_the_index_is_the_one_that_is_built_here(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Straight()
    here, there = place.refresh(), elsewhere(place, engine, monkeypatch)
    assert contents(state_of(place), there.head.generation) == contents(place.state, here.head.generation)
    assert [row.code for row in there.quarantined] == [row.code for row in here.quarantined] == ["broken"]
    assert engine.tables > 3
    assert engine.closed == 1


def test_a_small_edit_meets_no_cluster(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(place, Straight(), monkeypatch)
    place.write("d1.md", "# Another\n\nother words")
    engine = Straight()
    assert elsewhere(place, engine, monkeypatch).changed == 1
    assert engine.tables == engine.closed == 0


def short(table: pa.Table) -> pa.Table:
    return table.slice(1)


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table])


@pytest.mark.parametrize(("spoil", "told"), [(short, "unanswered"), (twice, "was not asked")])
def test_an_answer_too_few_or_too_many_is_refused(
    spoil: Spoil, told: str, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IntegrityError, match=told):
        elsewhere(place, Straight(spoil), monkeypatch)
    assert elsewhere(place, Straight(), monkeypatch).added == MANY


def test_a_machine_that_sees_no_documents_is_told_from_a_document_that_is_gone(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = stages.Path
    monkeypatch.setattr(stages, "Path", lambda root, inside: blind("/nowhere") / inside)
    with pytest.raises(UnavailableError, match="does not see a document") as refused:
        elsewhere(place, Straight(), monkeypatch)
    assert "storage that all machines" in str(refused.value.hint)


def test_a_machine_that_embeds_otherwise_is_refused(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stages._opened

    def astray(stage: stages.Embed) -> object:
        expected = -np.frombuffer(stage.expected, dtype=np.float32)
        return opened(stages.Embed(stage.open_embedder, stage.fingerprint, stage.probe, expected.tobytes()))

    monkeypatch.setattr(stages, "_opened", astray)
    with pytest.raises(LlmopsError, match="vectors are not those") as refused:
        elsewhere(place, Straight(), monkeypatch)
    assert "cannot embed" in str(refused.value)


def test_an_engine_that_is_not_there_says_what_to_install(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(UnavailableError, match="Spark needs Java") as refused:
        cluster._open_engine(ComputeConfig(engine="spark"))
    assert "llmops[spark]" in str(refused.value.hint)

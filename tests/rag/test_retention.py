"""What is kept for how long: generations in use always, others by number; tombstones and the log by age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.embedder import WordEmbedder
from tests.support.indexes import NAME, Workplace, contents
from tests.support.zygote import ROOT

from llmops.core.config import load_config
from llmops.core.drain import Drainer
from llmops.core.identity import Principal
from llmops.core.ids import new_id
from llmops.core.lake import Lake
from llmops.core.spool import Spool
from llmops.core.state import RetentionConfig, StateConfig
from llmops.rag.config import IndexRetention, RagConfig
from llmops.rag.index import open_index
from llmops.rag.ingest.documents import delete
from llmops.rag.ingest.status import status
from llmops.rag.packaging import register_chain
from llmops.rag.retention import in_use, retain
from llmops.registry.assets import Registry
from llmops.registry.lineage import Edge, Relation, node

ANYBODY = Principal("x", "person")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    place = Workplace.at(tmp_path)
    for n in range(3):
        place.write(f"d{n}.md", f"# Title {n}\n\nalpha {n}\n")
    return place


def job(place: Workplace, **retention: float) -> RagConfig:
    index = place.config.model_copy(update={"retention": IndexRetention(**retention)})
    return RagConfig(state=place.state, index=index)


def generations(place: Workplace) -> list[str]:
    return [one.name for one in status(place.state, NAME).generations]


def test_keeps_what_is_in_use_and_the_newest(place: Workplace) -> None:
    made = []
    with Registry(place.state) as registry:
        for n in range(5):
            place.embedder = WordEmbedder(f"words-{n}")
            made.append(place.refresh().head.generation)
            if n in (0, 1, 2):
                chain = register_chain(job(place), registry).chain  # the first is champion
                if n == 1:
                    registry.link([Edge(str(chain.ref), Relation.SERVED_BY, node("endpoint", "pinned"))])
        assert in_use(registry, NAME) == {made[0], made[1]}
        assert retain(job(place), registry).generations == ()
        held = open_index(place.state, NAME, made[2])
        before = contents(place.state, made[0])
        vectors = sum(path.stat().st_size for path in (place.folder / "vectors").glob("*"))
        assert retain(job(place, generations=1), registry).generations == (made[2], made[3])
        assert generations(place) == [made[0], made[1], made[4]]
        assert {path.name for path in (place.folder / "chroma").glob("*/")} == set(generations(place))
        assert contents(place.state, made[0]) == before
        assert sum(path.stat().st_size for path in (place.folder / "vectors").glob("*")) <= vectors
        assert len(held.reader().lexical("alpha").top(3)[0]) == 3  # whoever holds it is not disturbed
        held.close()
        assert retain(job(place, generations=1), registry).generations == ()
        assert place.refresh().unchanged == 3


def test_tombstones_past_their_time_are_lifted(place: Workplace) -> None:
    place.refresh()
    delete(place.state, NAME, [str(place.docs / "d1.md")], actor="ann", reason="x")
    with Registry(place.state) as registry:
        assert retain(job(place, tombstones_days=1), registry).tombstones == 0
        assert retain(job(place, tombstones_days=1e-9), registry).tombstones == 1
    assert place.refresh().added == 1


def test_the_log_is_kept_for_its_days(tmp_path: Path) -> None:
    retention = RetentionConfig(exchanges_days=30, feedback_days=400)
    state = StateConfig(dir=tmp_path / "state", retention=retention)
    now = datetime.now(UTC)
    with Spool(state.spool) as spool:
        for days in (0, 29, 31, 500):
            at = now - timedelta(days=days)
            row = {"request_id": f"r{days}", "request_time": at.isoformat(), "request_date": at.date().isoformat()}
            more = {"invocation_id": new_id(), "layer": "serving", "endpoint": "chat", "assignment_p": 1.0}
            spool.append("dev.serving.inference_log", row | more)
            thumb = {"feedback_id": new_id(), "request_id": f"r{days}", "source": "human", "name": "thumb"}
            spool.append("dev.serving.feedback", thumb | {"event_time": at.isoformat()})
    drainer = Drainer(state)
    drainer.drain_once()
    drainer.maintain()
    drainer.maintain()
    lake = Lake(state)
    assert sorted(row["request_id"] for row in lake.rows("dev.serving.inference_log")) == ["r0", "r29"]
    assert sorted(row["request_id"] for row in lake.rows("dev.serving.feedback")) == ["r0", "r29", "r31"]


def test_the_example_says_what_it_keeps() -> None:
    job = load_config(RagConfig, ROOT / "configs/rag-retention.yaml").value
    assert (job.index.retention.generations, job.index.retention.tombstones_days) == (2, 365)
    assert (job.state.retention.exchanges_days, job.state.retention.feedback_days) == (180, 730)

"""What happens to passages after the search: judged again, freshened, spread, widened; never beyond their reader."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.memory_index import HashingEmbedder, MemoryDocument, MemoryIndex, Page

from llmops.core.errors import UserError
from llmops.core.identity import Principal
from llmops.rag.config import FreshnessConfig, RerankConfig, RetrievalConfig
from llmops.rag.refine import CrossScores
from llmops.rag.retrieve import Retrieved, Retriever

NOW = datetime.now(UTC)
READER = Principal("ola")


def search(
    documents: Sequence[MemoryDocument], question: str, config: RetrievalConfig, cross: CrossScores | None = None
) -> Retrieved:
    embedder = HashingEmbedder()
    index = MemoryIndex(documents, embedder)
    return Retriever(lambda: index, embedder, config, cross).retrieve(question, READER)


def uris(found: Retrieved) -> list[str]:
    return [passage.chunk.uri for passage in found.passages]


def test_a_cross_encoder_reads_the_pool_and_orders_it() -> None:
    documents = [MemoryDocument(f"{n}.md", f"apple pie recipe number {n}") for n in range(6)]
    documents.append(MemoryDocument("secret.md", "apple pie recipe of the board", acl=frozenset({"board"})))
    read: list[str] = []

    def cross(question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        read.extend(passages)
        return np.array([int(passage.split()[4]) for passage in passages], dtype=np.float32)

    config = RetrievalConfig(top_k=3, rerank=RerankConfig(model="test", pool=5))
    found = search(documents, "apple pie recipe", config, cross)
    assert len(read) == 5
    best = sorted((int(text.split()[4]) for text in read), reverse=True)[:3]
    assert uris(found) == [f"{n}.md" for n in best]
    assert not any("board" in text for text in read)


def test_newer_documents_gain_and_those_without_a_date_stay() -> None:
    def dated(days: float) -> str:
        return (NOW - timedelta(days=days)).isoformat()

    documents = [
        MemoryDocument("old.md", "holiday rules for the staff", metadata={"changed": dated(900)}),
        MemoryDocument("new.md", "holiday rules for all people", metadata={"changed": dated(1)}),
        MemoryDocument("none.md", "holiday rules for our guests"),
        MemoryDocument("bad.md", "holiday rules for the garden", metadata={"changed": "soon"}),
        MemoryDocument("other.md", "a note about pumps"),
    ]
    plain = uris(search(documents, "holiday rules staff", RetrievalConfig(top_k=4)))
    fresh = FreshnessConfig(field="changed", half_life_days=30, weight=5)
    freshened = uris(search(documents, "holiday rules staff", RetrievalConfig(top_k=4, freshness=fresh)))
    assert plain[0] == "old.md"
    assert freshened[0] == "new.md"
    assert set(plain) == set(freshened)


def test_passages_that_say_the_same_give_way() -> None:
    documents = [
        MemoryDocument("a.md", "the pump moves water through the main pipe quickly"),
        MemoryDocument("b.md", "the pump moves water through the main pipe slowly"),
        MemoryDocument("c.md", "the pump needs a filter every month"),
        MemoryDocument("d.md", "gardens and flowers"),
    ]
    question = "pump moves water through pipe"
    assert set(uris(search(documents, question, RetrievalConfig(top_k=2)))) == {"a.md", "b.md"}
    spread = uris(search(documents, question, RetrievalConfig(top_k=2, diversity=0.7)))
    assert len({"a.md", "b.md"} & set(spread)) == 1


TEXT = "Intro about mills.\n\nThe turbine turns at noon.\n\nIt rests at night.\n\n" + "Filler. " * 300


def test_a_passage_grows_to_the_paragraphs_around_it() -> None:
    found = search([MemoryDocument("a.md", TEXT)], "turbine noon", RetrievalConfig(top_k=1, expand="around"))
    (passage,) = found.passages
    assert passage.chunk.text.startswith("Intro about mills.")
    assert passage.chunk.text.endswith("It rests at night.")
    assert TEXT[passage.chunk.start : passage.chunk.end] == passage.chunk.text


def test_a_passage_grows_to_its_page_and_a_page_stands_once() -> None:
    text = "Page one speaks of turbines.\fTurbines rest at night. They turn at noon."
    paged = MemoryDocument("hall.pdf", text, pages=(Page(1, 0, 28), Page(2, 29, len(text))))
    found = search([paged], "turbines", RetrievalConfig(top_k=4, expand="page"))
    assert sorted((one.chunk.start, one.chunk.end) for one in found.passages) == [(0, 28), (29, len(text))]


def test_a_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    from llmops.rag.embed.cross import open_cross_encoder

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="no safetensors"):
        open_cross_encoder(str(tmp_path))

"""Reading while others write: consistent states, access before scores, answers whatever becomes of Chroma."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.support.embedder import WordEmbedder
from tests.support.indexes import NAME, Workplace
from tests.support.zygote import Zygote

from llmops.core.errors import NotFoundError, UnavailableError, UserError
from llmops.core.identity import LOCAL, Principal
from llmops.rag.config import FolderSource, IndexConfig
from llmops.rag.index import open_index
from llmops.rag.index import reader as reader_module
from llmops.rag.index.guard import writing
from llmops.rag.index.reader import POLL_S, Index
from llmops.rag.index.snapshot import Snapshot
from llmops.rag.ingest.refresh import Options, refresh

HR = Principal("ann", groups=frozenset({"hr"}))


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    place = Workplace.at(tmp_path)
    for n in range(8):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"topic{n} paragraph{p} word " * 5 for p in range(5)))
    return place


@pytest.fixture
def opened(place):
    indexes: list[Index] = []

    def open_(**options) -> Index:
        generation = place.refresh().head.generation
        indexes.append(Index.open(place.state, NAME, generation, **options))
        return indexes[-1]

    yield open_
    for index in indexes:
        index.close()


@pytest.fixture
def zygote():
    process = Zygote()
    yield process
    process.close()


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def has_store(index: Index) -> bool:
    return index.reader()._store is not None


@pytest.fixture
def looks(monkeypatch):
    """How often an index has tried to load its store; it looks every moment."""
    monkeypatch.setattr(reader_module, "POLL_S", 0.05)
    whole, counted = Index._load_store, []

    def counting(index, reader):
        whole(index, reader)
        counted.append(reader)

    monkeypatch.setattr(Index, "_load_store", counting)
    return counted


def brute_force(reader, vector, k):
    rows = np.flatnonzero(reader._snapshot.live)
    scores = reader._snapshot.vectors[reader._snapshot.slots[rows]] @ vector
    return set(rows[np.argsort(-scores, kind="stable")[:k]].tolist())


def test_chroma_and_the_exact_scan_agree(place, opened):
    with_store = opened(exact_below=1)
    wait_for(lambda: has_store(with_store))
    exact = opened()
    for text in ("topic3 paragraph2", "word", "topic7"):
        vector = place.embedder.embed_query(text)
        ours, theirs = exact.reader().dense(vector, 5), with_store.reader().dense(vector, 5)
        assert ours.rows.tolist() == theirs.rows.tolist()
        assert np.allclose(ours.scores, theirs.scores)
        assert set(ours.rows.tolist()) == brute_force(exact.reader(), vector, 5)
    assert with_store.reader().store_queries == 3
    assert exact.reader().store_queries == 0


def test_chunks_and_documents_are_what_was_ingested(place, opened):
    reader = opened().reader()
    words = reader.lexical("topic3 paragraph2")
    rows, scores = words.top(3)
    chunk = reader.chunks(rows)[0]
    document = reader.document(chunk.uri, LOCAL)
    assert chunk.uri.endswith("d3.md")
    assert document.text[chunk.start : chunk.end] == chunk.text
    assert chunk.context.startswith("Title 3")
    assert reader.dense_scores(place.embedder.embed_query(f"{chunk.context}\n{chunk.text}"), rows)[0] > 0.999
    assert words.at(rows).tolist() == scores.tolist()


def test_a_private_document_is_never_scored_nor_told_from_a_missing_one(place, opened, tmp_path):
    secret = place.docs / "private"
    place.write("private/pay.md", "# Pay\n\ntopic3 paragraph2 salary")
    sources = (
        FolderSource(path=str(place.docs)),
        FolderSource(path=str(secret), acl=("hr",), metadata={"team": "pay"}),
    )
    for order in (sources, sources[::-1]):
        config = IndexConfig(name=NAME, sources=order)
        refresh(config, place.state, Options(embedder=place.embedder))
        index = open_index(place.state, NAME)
        reader = index.reader()
        allowed = reader.allowed(LOCAL, {})
        assert allowed is not None
        hidden = {row for row in range(reader.size) if not allowed[row]}
        assert hidden
        vector = place.embedder.embed_query("topic3 paragraph2 salary")
        assert hidden.isdisjoint(reader.dense(vector, 100, allowed).rows.tolist())
        assert hidden.isdisjoint(reader.lexical("salary").top(100, allowed)[0].tolist())
        for uri in (str(secret / "pay.md"), "no such", "no\0uri"):
            with pytest.raises(NotFoundError, match="there is no such document"):
                reader.document(uri, LOCAL)
        assert reader.allowed(HR, {}) is None
        assert reader.document(str(secret / "pay.md"), HR).metadata["team"] == "pay"
        only = reader.allowed(HR, {"team": ["pay", "other"]})
        assert {row for row in range(reader.size) if only[row]} == hidden
        with pytest.raises(UserError, match="no document has the metadata `team`"):
            reader.allowed(LOCAL, {"team": "pay"})
        index.close()


@pytest.mark.kill
def test_a_reader_goes_on_while_another_process_ingests_and_sees_the_new_head(place, opened, zygote):
    index = opened(exact_below=1)
    wait_for(lambda: has_store(index))
    vector = place.embedder.embed_query("topic3 paragraph2")
    for n in range(40):
        place.write(f"new/{n}.md", f"# New {n}\n\n" + "\n\n".join(f"fresh{n} p{p} " * 9 for p in range(8)))
    first = index.reader()
    best = [chunk.id for chunk in first.chunks(first.dense(vector, 3).rows)]
    answers: list[dict] = []
    job = {"config": place.config.model_dump(), "state": str(place.state.dir), "embedder": "words-1"}
    writer = threading.Thread(target=lambda: answers.append(zygote.run(**job)))
    writer.start()
    until = time.monotonic() + 120
    while (reader := index.reader()).head.seq == 1:
        assert [chunk.id for chunk in reader.chunks(reader.dense(vector, 3).rows)] == best
        assert time.monotonic() < until, "the new head was not seen"
    writer.join(60)
    assert 3 * POLL_S < 2  # a look that just missed the head, and the next one: promised are 2 s
    assert answers[0]["status"] == 0
    assert index.reader().head.seq == 2
    assert first.head.seq == 1
    assert [chunk.id for chunk in first.chunks(first.dense(vector, 3).rows)] == best
    assert index.reader().lexical("fresh7").top(3)[0].size == 3
    wait_for(lambda: has_store(index))
    assert index.reader().dense(place.embedder.embed_query("fresh7 p3"), 3).rows.size == 3
    assert index.reader().store_queries >= 1


def test_a_held_state_does_not_change_when_its_documents_go(place, opened):
    index = opened()
    held = index.reader()
    vector = place.embedder.embed_query("topic3 paragraph2")
    before = [chunk.id for chunk in held.chunks(held.dense(vector, 5).rows)]
    (place.docs / "d3.md").unlink()
    place.refresh()
    wait_for(lambda: index.reader().head.seq == 2)
    assert [chunk.id for chunk in held.chunks(held.dense(vector, 5).rows)] == before
    uri = str(place.docs / "d3.md")
    assert held.document(uri, LOCAL).title == "Title 3"
    with pytest.raises(NotFoundError):
        index.reader().document(uri, LOCAL)


def test_staged_documents_are_invisible_until_the_head_moves(place, opened):
    index = opened()
    entered, leave = threading.Event(), threading.Event()

    class Slow(WordEmbedder):
        def embed(self, texts, on_batch=None):
            if any("slow" in text for text in texts):
                entered.set()
                assert leave.wait(120)
            return super().embed(texts, on_batch)

    place.embedder = Slow()
    (place.docs / "d3.md").rename(place.docs / "renamed.md")
    place.write("z.md", "# Slow\n\nslow words")
    writer = threading.Thread(target=place.refresh)
    writer.start()
    assert entered.wait(60)
    late = Index.open(place.state, NAME, index.generation)
    try:
        for reader in (index.reader(), late.reader()):
            assert reader.head.seq == 1
            assert reader.document(str(place.docs / "d3.md"), LOCAL)
            with pytest.raises(NotFoundError):
                reader.document(str(place.docs / "renamed.md"), LOCAL)
        leave.set()
        writer.join(60)
        wait_for(lambda: late.reader().head.seq == 2)
    finally:
        leave.set()
        late.close()


def test_answers_go_on_without_chroma_and_say_so_once(place, looks, caplog):
    place.refresh()
    generation = place.refresh().head.generation
    shutil.rmtree(place.folder / "chroma" / generation)
    index = Index.open(place.state, NAME, generation, exact_below=1)
    try:
        wait_for(lambda: len(looks) > 3)
        hits = index.reader().dense(place.embedder.embed_query("topic3 paragraph2"), 5)
        assert hits.rows.size == 5
        assert caplog.text.count("exact scan") == 1
        place.refresh()
        wait_for(lambda: has_store(index))
    finally:
        index.close()


def test_an_index_is_followed_though_its_first_look_at_the_store_fails(place, opened, monkeypatch):
    failed = threading.Event()
    whole = Snapshot.again

    def fails_once(snapshot):
        if not failed.is_set():
            failed.set()
            raise UnavailableError("the database does not answer")
        return whole(snapshot)

    monkeypatch.setattr(Snapshot, "again", fails_once)
    index = opened(exact_below=1)
    assert failed.wait(60)
    wait_for(lambda: has_store(index))


def test_the_store_is_not_loaded_while_it_is_written(place, looks):
    generation = place.refresh().head.generation
    with writing(place.folder / "chroma" / generation):
        index = Index.open(place.state, NAME, generation, exact_below=1)
        wait_for(lambda: len(looks) > 3)
        assert not has_store(index)
        assert index.reader().dense(place.embedder.embed_query("topic3"), 3).rows.size == 3
    wait_for(lambda: has_store(index))
    index.close()


def test_a_pinned_generation_stays_when_the_settings_change(place, opened):
    index = opened()
    place.chunk_chars = 100
    other = place.refresh().head
    assert other.generation != index.generation
    assert index.reader().head.generation == index.generation
    newest = open_index(place.state, NAME)
    assert newest.reader().head == other
    newest.close()
    pinned = open_index(place.state, NAME, index.generation)
    assert pinned.reader().head == index.reader().head
    pinned.close()


def test_an_index_that_was_never_built_is_not_found(place):
    with pytest.raises(NotFoundError, match="there is no index"):
        open_index(place.state, NAME)
    place.refresh()
    with pytest.raises(NotFoundError, match="no generation `nope`"):
        open_index(place.state, NAME, "nope")


def test_an_empty_index_answers_with_nothing(tmp_path):
    place = Workplace.at(tmp_path)
    place.refresh()
    index = open_index(place.state, NAME)
    reader = index.reader()
    assert reader.size == 0
    assert reader.dense(place.embedder.embed_query("anything"), 5, reader.allowed(LOCAL, {})).rows.size == 0
    assert reader.lexical("anything").top(5)[0].size == 0
    place.write("a.md", "# A\n\nfirst words")
    place.refresh()
    wait_for(lambda: index.reader().size == 1)
    assert index.reader().dense(place.embedder.embed_query("first"), 5).rows.tolist() == [0]
    index.close()


def test_many_threads_read_while_heads_move(place, opened):
    index = opened()
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        vector = place.embedder.embed_query("word paragraph2")
        while not stop.is_set():
            try:
                reader = index.reader()
                assert len(reader.chunks(reader.dense(vector, 5).rows)) == 5
                assert len(reader.chunks(reader.lexical("word").top(5)[0])) == 5
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(4):
        place.write(f"d{n}.md", f"# Title {n}\n\nword paragraph2 edited {n}")
        seq = place.refresh().head.seq
        wait_for(lambda seq=seq: index.reader().head.seq == seq)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert failures == []

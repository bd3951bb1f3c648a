"""What is mostly dead is given back, and nobody notices."""

from __future__ import annotations

import time

import pytest
from tests.support.indexes import NAME, Workplace, contents

from llmops.rag.index.reader import Index
from llmops.rag.ingest import compaction
from llmops.rag.ingest.refresh import Options
from llmops.rag.ingest.verify import verify
from llmops.rag.manifest import Manifest


@pytest.fixture
def place(tmp_path):
    place = Workplace.at(tmp_path)
    for n in range(5):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"topic{n} paragraph{p} word " * 5 for p in range(5)))
    return place


def test_dead_vectors_and_rows_are_given_back_under_a_reader(place, monkeypatch, tmp_path):
    head = place.refresh().head
    index = Index.open(place.state, NAME, head.generation)
    held = index.reader()
    vector = place.embedder.embed_query("topic3 paragraph1")
    before = [chunk.id for chunk in held.chunks(held.dense(vector, 3).rows)]
    for turn in range(6):
        place.write("d0.md", f"# Turn {turn}\n\n" + "\n\n".join(f"turn{turn} p{p} " * 9 for p in range(20)))
        place.refresh()
    monkeypatch.setattr(compaction, "SPARE_SLOTS", 0)
    monkeypatch.setattr(compaction, "SPARE_ROWS", 0)
    place.write("d0.md", "# Short\n\nshort")
    done = place.refresh()
    assert done.head.size == done.head.chunks
    manifest = Manifest.open(place.state, NAME)
    record = manifest.arena("words-1")
    manifest.close()
    assert record.slots == done.head.chunks
    assert verify(place.config, place.state, Options(embedder=place.embedder)).ok
    scratch = place.scratch(tmp_path / "scratch")
    built = scratch.refresh()
    assert contents(place.state, done.head.generation) == contents(scratch.state, built.head.generation)
    assert [chunk.id for chunk in held.chunks(held.dense(vector, 3).rows)] == before
    deadline = time.monotonic() + 60
    while index.reader().head.seq != done.head.seq:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    fresh = index.reader()
    assert [chunk.id for chunk in fresh.chunks(fresh.dense(vector, 1).rows)] == before[:1]
    index.close()
    assert place.refresh().head == done.head


def test_a_file_of_vectors_that_nothing_names_is_deleted_after_a_while(place, monkeypatch):
    place.refresh()
    stray = place.folder / "vectors" / "stray.f32"
    stray.write_bytes(b"1234")
    place.write("d9.md", "# Nine\n\nnine")
    place.refresh()
    assert stray.exists()
    monkeypatch.setattr(compaction.time, "time", lambda: 9e12)
    manifest = Manifest.open(place.state, NAME)
    compaction.remove_unused_files(manifest)
    manifest.close()
    assert not stray.exists()
    assert len(list((place.folder / "vectors").iterdir())) == 1

"""The refresh in single steps: what it counts, what it costs, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.embedder import WordEmbedder
from tests.support.indexes import NAME, Workplace, contents
from tests.support.zygote import ROOT, Zygote

from llmops.core.errors import ConflictError, NotFoundError, StorageError
from llmops.rag.ingest import plan
from llmops.rag.ingest.forecast import forecast
from llmops.rag.ingest.refresh import Options
from llmops.rag.ingest.status import inspect, status
from llmops.rag.ingest.verify import repair, verify
from llmops.rag.manifest import Manifest

PAGES = {
    f"d{n}.md": f"# Title {n}\n\n" + "\n\n".join(f"alpha {n} paragraph {p} " * 8 for p in range(4)) for n in range(6)
}


@pytest.fixture(params=["file", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Workplace:
    """The index's manifest is a file, then in PostgreSQL."""
    if request.param == "file":
        place = Workplace.at(tmp_path)
    else:
        place = Workplace.shared(tmp_path, request.getfixturevalue("fresh_database")())
    for name, text in PAGES.items():
        place.write(name, text)
    return place


@pytest.fixture(scope="module")
def zygote():
    process = Zygote()
    yield process
    process.close()


def age(place: Workplace, seconds: float = 100) -> None:
    """Make every document old enough to be trusted by its time."""
    for path in place.docs.rglob("*"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_counts_what_became_of_each_document(place):
    first = place.refresh()
    assert (first.added, first.changed, first.removed, first.head.seq) == (6, 0, 0, 1)
    assert first.chunks == first.embedded == first.head.chunks > 6
    place.write("d0.md", "# Title 0\n\nnew words")
    (place.docs / "d1.md").rename(place.docs / "moved.md")
    (place.docs / "d2.md").unlink()
    place.write("d9.md", "# Nine\n\nnine")
    second = place.refresh()
    assert (second.added, second.changed, second.renamed, second.removed, second.unchanged) == (1, 1, 1, 1, 3)
    assert second.head.seq == 2
    assert json.loads(json.dumps(second.as_json()))["digest"] == second.head.digest != first.head.digest


def test_a_rename_embeds_nothing_and_reads_no_file_again(place):
    place.refresh()
    place.embedder.texts.clear()
    (place.docs / "d1.md").rename(place.docs / "größer 文.md")
    done = place.refresh()
    assert (done.renamed, done.embedded, done.removed) == (1, 0, 0)
    assert place.embedder.texts == []
    assert "docs" in inspect(place.state, NAME, str(place.docs / "größer 文.md")).uri


def test_a_reverted_edit_and_a_repeated_passage_embed_nothing(place):
    place.refresh()
    place.write("d0.md", "# Other\n\nother")
    place.refresh()
    place.embedder.texts.clear()
    place.write("d0.md", PAGES["d0.md"])
    place.write("copy.md", PAGES["d3.md"])
    done = place.refresh()
    assert done.embedded == 0
    assert done.reused > 0
    assert place.embedder.texts == []


def test_an_unchanged_refresh_keeps_the_head_and_writes_nothing(place):
    age(place)
    head = place.refresh().head
    manifest = Manifest.open(place.state, NAME)
    before = manifest.db.news()
    again = place.refresh()
    assert manifest.db.news() == before
    manifest.close()
    assert again.head == head
    assert again.unchanged == 6


def test_full_reads_everything_again_and_finds_the_same(place):
    head = place.refresh().head
    full = place.refresh(full=True)
    assert full.head == head
    assert (full.unchanged, full.embedded) == (6, 0)


def test_an_edit_that_keeps_size_and_time_is_seen_if_made_just_after_the_scan(place, monkeypatch):
    monkeypatch.setattr(plan, "RACY_NS", 300 * plan.RACY_NS)  # 2 s may pass before a slow machine comes to the scan
    path = place.write("same.md", "aaaa bbbb")
    stat = path.stat()
    place.refresh()
    path.write_text("cccc dddd")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert place.refresh().changed == 1


def test_duplicate_names_and_texts_in_other_folders_stay_apart(place):
    for folder in ("x", "x/y", "ünï"):
        place.write(f"{folder}/same.md", "# Same\n\nsame text")
    done = place.refresh()
    held = contents(place.state, done.head.generation)
    uris = [uri for uri in held["documents"] if uri.endswith("same.md")]
    assert len(uris) == 3
    assert len({chunk["id"] for chunk in held["chunks"].values() if chunk["uri"] in uris}) == 3


def test_new_settings_build_another_generation_and_leave_the_old_one(place):
    old = place.refresh().head
    place.chunk_chars = 100
    new = place.refresh().head
    assert new.generation != old.generation
    place.chunk_chars = 200
    assert place.refresh().head == old
    assert {g.name for g in status(place.state, NAME).generations} == {old.generation, new.generation}
    assert [g.name for g in status(place.state, NAME).generations if g.current] == [old.generation]


def test_a_missing_source_deletes_nothing(place):
    head = place.refresh().head
    place.docs.rename(place.docs.with_name("elsewhere"))
    with pytest.raises(NotFoundError):
        place.refresh()
    place.docs.with_name("elsewhere").rename(place.docs)
    assert place.refresh().head == head


def test_a_broken_document_waits_in_quarantine_until_it_changes(place):
    bad = place.docs / "bad.pdf"
    bad.write_bytes(b"%PDF-1.4 nothing")
    age(place)
    first = place.refresh()
    assert [(q.code, q.attempts) for q in first.quarantined] == [("broken", 1)]
    assert first.added == 6
    waiting = place.refresh()
    assert [(q.code, q.attempts) for q in waiting.quarantined] == [("broken", 1)]
    assert [q.attempts for q in place.refresh(full=True).quarantined] == [2]
    bad.unlink()
    place.write("bad.pdf", "")
    assert [(q.code, q.attempts) for q in place.refresh().quarantined] == [("empty", 1)]
    bad.unlink()
    assert place.refresh().quarantined == ()


def test_a_document_that_breaks_leaves_the_index_and_comes_back(place):
    first = place.refresh()
    (place.docs / "d0.md").write_bytes(b"")
    broken = place.refresh()
    assert (broken.removed, len(broken.quarantined)) == (1, 1)
    place.write("d0.md", PAGES["d0.md"])
    assert place.refresh().head.digest == first.head.digest


def test_a_second_ingest_at_once_is_refused(place):
    entered, leave = threading.Event(), threading.Event()

    class Slow(WordEmbedder):
        def embed(self, texts, on_batch=None):
            entered.set()
            assert leave.wait(120)
            return super().embed(texts, on_batch)

    place.embedder = Slow()
    thread = threading.Thread(target=place.refresh)
    thread.start()
    assert entered.wait(60)
    with pytest.raises(ConflictError, match="already ingesting"):
        place.refresh()
    leave.set()
    thread.join(60)
    assert place.refresh().unchanged == 6


def test_an_embedder_that_fails_leaves_the_old_head(place):
    head = place.refresh().head

    class Failing(WordEmbedder):
        def embed(self, texts, on_batch=None):
            raise StorageError("out of memory")

    place.embedder = Failing()
    place.write("new.md", "# New\n\nnew words")
    with pytest.raises(StorageError, match="out of memory"):
        place.refresh()
    assert status(place.state, NAME).generations[0].head == head
    place.embedder = WordEmbedder()
    assert place.refresh().added == 1


def test_plan_tells_what_a_refresh_then_does_and_writes_nothing(place):
    planned = forecast(place.config, place.state, Options(embedder=place.embedder))
    assert not place.folder.exists()
    done = place.refresh()
    assert planned.new_generation
    assert (len(planned.added), planned.to_embed) == (done.added, done.embedded)
    place.write("d0.md", "# Title 0\n\nchanged")
    (place.docs / "d1.md").rename(place.docs / "e1.md")
    (place.docs / "d2.md").unlink()
    planned = forecast(place.config, place.state, Options(embedder=place.embedder))
    assert planned.changed == (str(place.docs / "d0.md"),)
    assert planned.removed == (str(place.docs / "d2.md"),)
    assert planned.renamed == {str(place.docs / "e1.md"): str(place.docs / "d1.md")}
    assert planned.to_embed == place.refresh().embedded == 1


def test_a_narrower_access_list_is_a_new_head_without_parsing(place):
    first = place.refresh()
    place.acl = ("hr",)
    second = place.refresh()
    assert second.head.digest == first.head.digest
    assert (second.head.seq, second.changed, second.embedded) == (2, 6, 0)
    assert inspect(place.state, NAME, str(place.docs / "d0.md")).acl == ("hr",)


@pytest.mark.kill
@pytest.mark.parametrize("lost", ["folder", "database", "graph"])
def test_a_lost_or_damaged_store_is_rebuilt_from_the_manifest(place, lost, caplog):
    for n in range(300):  # enough for Chroma to write its graph
        place.write(f"many/{n}.md", "\n\n".join(f"# H{n} {p}\n\n{n} {p} words" for p in range(4)))
    head = place.refresh().head
    store = place.folder / "chroma" / head.generation
    if lost == "folder":
        for path in sorted(store.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    elif lost == "database":
        (store / "chroma.sqlite3").write_bytes(b"garbage" * 1000)
    else:
        graph = next(store.rglob("data_level0.bin"))
        os.truncate(graph, graph.stat().st_size // 2)
    before = len(place.embedder.texts)
    done = place.refresh()
    assert "rebuilt its" in caplog.text
    assert done.rebuilt == head.chunks
    assert (done.head, len(place.embedder.texts)) == (head, before)
    assert verify(place.config, place.state, Options(embedder=place.embedder)).ok


@pytest.mark.parametrize("place", ["file"], indirect=True)  # the store is the same, wherever the manifest is
def test_more_chunks_than_one_store_batch_come_back_after_reopening(place):
    for n in range(60):
        place.write(f"many/{n}.md", "\n\n".join(f"# H {n} {p}\n\n" + f"word{n} number{p} " * 9 for p in range(100)))
    done = place.refresh()
    assert done.chunks > 5_461
    held = contents(place.state, done.head.generation)
    assert len(held["store"]) == len(held["chunks"]) == done.chunks
    assert done.embedded + done.reused == done.chunks
    (found,) = told_by_another_process(place, done.head.generation, "word59 number99")
    assert found["uri"].endswith("many/59.md")
    assert "number99" in found["text"]


def told_by_another_process(place: Workplace, generation: str, question: str) -> list[dict[str, str]]:
    """The passage that a process finds in the store which has seen nothing of how it was filled."""
    script = f"""
import json, time
from contextlib import closing
from tests.support.embedder import WordEmbedder
from llmops.core.state import StateConfig
from llmops.rag.index.reader import Index
state = StateConfig.model_validate_json({place.state.model_dump_json()!r})
with closing(Index.open(state, {NAME!r}, {generation!r}, exact_below=1)) as index:
    until = time.monotonic() + 240
    while not (reader := index.reader()).store_queries and time.monotonic() < until:
        hits = reader.dense(WordEmbedder().embed_query({question!r}), 1)  # exact, until the store is loaded
        time.sleep(0.05)
    assert reader.store_queries
    print(json.dumps([{{"uri": chunk.uri, "text": chunk.text}} for chunk in reader.chunks(hits.rows)]))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    found: list[dict[str, str]] = json.loads(told.stdout)
    return found


@pytest.mark.kill
@pytest.mark.parametrize(
    ("place", "file_bytes"),
    [
        *(("file", size) for size in (30_000, 60_000, 150_000, 300_000)),
        *(pytest.param("postgresql", size, marks=pytest.mark.postgresql) for size in (30_000, 150_000)),
    ],
    indirect=["place"],
)
def test_a_full_disk_keeps_the_old_head(place, zygote, file_bytes):
    first = place.refresh()
    for n in range(150):
        place.write(f"more/{n}.md", f"# More {n}\n\n" + f"more {n} words " * 60)
    done = zygote.run(**place.job, file_bytes=file_bytes)
    assert done["status"] == 0
    assert done["error"]["kind"] == "StorageError", done
    assert "run again" in done["error"]["hint"]
    assert status(place.state, NAME).generations[0].head == first.head
    assert place.refresh().added == 150
    assert verify(place.config, place.state, Options(embedder=place.embedder)).ok


@pytest.mark.kill
def test_what_was_embedded_before_a_kill_is_not_embedded_again(place, zygote):
    assert zygote.run(**place.job, kill_at=40)["status"] == -9
    cached = status(place.state, NAME).vectors
    assert cached > 0
    place.embedder.texts.clear()
    place.refresh()
    assert len(place.embedder.texts) + cached == status(place.state, NAME).vectors


def test_verify_finds_and_repairs_each_kind_of_damage(place):
    place.refresh()
    options = Options(embedder=place.embedder)
    damage = {
        "documents": "UPDATE chunks SET text = text || '!' WHERE row = 2",
        "head": "UPDATE heads SET digest = 'x'",
        "vectors": "UPDATE vectors SET crc = crc + 1 WHERE slot = 1",
        "lexical": "UPDATE segments SET data = substr(data, 2)",
    }
    for part, statement in damage.items():
        manifest = Manifest.open(place.state, NAME)
        manifest.db.execute(statement)
        manifest.close()
        found = verify(place.config, place.state, options)
        assert part in {problem.part for problem in found.problems}
        assert repair(place.config, place.state, options).ok, part


def test_verify_compares_with_the_files(place):
    place.refresh()
    place.write("d0.md", "# Edited\n\nedited")
    place.write("new.md", "# New\n\nnew")
    (place.docs / "d1.md").unlink()
    found = verify(place.config, place.state, Options(embedder=place.embedder))
    assert {problem.part for problem in found.problems} == {"sources"}
    assert len(found.problems) == 3


def test_lost_vectors_are_had_again(place):
    head = place.refresh().head
    arena = next((place.folder / "vectors").glob("*.f32"))
    os.truncate(arena, arena.stat().st_size // 2)
    done = place.refresh()
    assert (done.embedded > 0) == (place.state.sql_url is None), "the database has them still"
    assert done.head.digest == head.digest
    assert contents(place.state, head.generation)["vectors"]
    assert verify(place.config, place.state, Options(embedder=place.embedder)).ok


def test_an_unchanged_refresh_imports_nothing_heavy(place):
    age(place)
    place.refresh()
    script = f"""
import sys, types
from pathlib import Path
from llmops.core.state import StateConfig
from llmops.rag.config import IndexConfig
from llmops.rag.ingest.refresh import Options, refresh
embedder = types.SimpleNamespace(fingerprint="words-1")
config = IndexConfig.model_validate_json({place.config.model_dump_json()!r})
state = StateConfig.model_validate_json({place.state.model_dump_json()!r})
done = refresh(config, state, Options(embedder=embedder))
assert done.unchanged == 6, done
print([name for name in ("numpy", "chromadb", "torch", "openvino", "transformers", "sqlalchemy") if name in
sys.modules])
"""
    path = os.pathsep.join(str(ROOT / part) for part in ("cli", "serving", "rag", "registry", "core"))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_progress_tells_each_phase_to_its_end(place):
    told: dict[str, tuple[int, int | None]] = {}

    def draw(phase, done, total, rate):
        told[phase] = (done, total)

    done = place.refresh(progress=draw)
    assert told["parse"] == (6, 6)
    assert told["embed"][0] == done.embedded
    assert told["write"][0] == done.chunks


def test_inspect_shows_a_document_and_its_chunks(place):
    place.refresh()
    uri = str(place.docs / "d0.md")
    view = inspect(place.state, NAME, uri)
    assert view.title == "Title 0"
    assert all(PAGES["d0.md"][c["start"] : c["end"]] == c["text"] for c in view.chunks)
    with pytest.raises(NotFoundError) as raised:
        inspect(place.state, NAME, uri + "x")
    assert "d0.md" in (raised.value.hint or "")


def test_recording_takes_no_longer_than_the_scan_says(place):
    began = time.monotonic()
    seconds = place.refresh().seconds
    assert 0 < seconds["scan"] <= seconds["total"] <= time.monotonic() - began

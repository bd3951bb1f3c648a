"""An index whose manifest is in PostgreSQL: the same index to the bit, shared by machines, whole after any kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis.stateful import rule, run_state_machine_as_test
from sqlalchemy.engine import make_url
from tests.rag.ingest.test_ingest_machine import IndexMachine, machine_settings
from tests.support.indexes import NAME, Workplace, contents
from tests.support.postgresql import PostgresqlProcess, database, postgresql_process
from tests.support.zygote import Zygote

from llmops.core.errors import ConflictError, NotFoundError, UnavailableError
from llmops.core.ids import new_id
from llmops.core.state import StateConfig
from llmops.rag import forgotten, kept_vectors
from llmops.rag.forget import forget, request_of
from llmops.rag.index.reader import Index
from llmops.rag.index.sync import _log as sync_log
from llmops.rag.ingest import cleaning, compaction
from llmops.rag.ingest.documents import Query, delete, listing, restore
from llmops.rag.ingest.refresh import Options
from llmops.rag.ingest.status import status
from llmops.rag.ingest.verify import repair, verify
from llmops.rag.manifest import Manifest

pytestmark = pytest.mark.postgresql


@pytest.fixture
def place(tmp_path: Path, fresh_database: Callable[[], str]) -> Workplace:
    place = Workplace.shared(tmp_path, fresh_database())
    for n in range(4):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"topic{n} paragraph{p} word " * 5 for p in range(5)))
    return place


def as_scratch(place: Workplace, folder: Path) -> dict[str, object]:
    """What a build from nothing, in a file, holds."""
    scratch = place.scratch(folder / f"scratch-{new_id()}")
    return contents(scratch.state, scratch.refresh().head.generation)


def whole(place: Workplace) -> bool:
    found = verify(place.config, place.state, Options(embedder=place.embedder))
    assert found.ok, found.problems
    return True


@pytest.mark.kill
def test_two_machines_equal_a_scratch_build_whatever_happened(fresh_database: Callable[[], str]) -> None:
    zygote = Zygote()

    class SharedMachine(IndexMachine):
        place_at = staticmethod(lambda folder: Workplace.shared(folder, fresh_database()))

        @rule()
        def go_to_the_other_machine(self) -> None:
            state = self.place.state
            self.place.state = getattr(self, "away", self.place.other_machine().state)
            self.away = state

    SharedMachine.zygote = zygote
    sync_log.disabled = True
    try:
        run_state_machine_as_test(SharedMachine, settings=machine_settings(3, 14))
    finally:
        sync_log.disabled = False
        zygote.close()


def test_both_machines_answer_alike_after_a_refresh_by_either(place: Workplace, tmp_path: Path) -> None:
    other = place.other_machine()
    first = place.refresh()
    index = Index.open(other.state, NAME, first.head.generation)
    try:
        assert index.reader().head == first.head
        other.write("d1.md", "quite another text about bridges")
        second = other.refresh()
        assert (second.changed, second.embedded) == (1, 1), "the other machine's vectors are known here"
        place.write("d9.md", "a tenth text about stones")
        third = place.refresh()
        assert (third.added, third.embedded) == (1, 1)
        with index._lock:  # as the thread that follows does
            index._check()
        assert index.reader().head == third.head
        rows, _ = index.reader().lexical("stones").top(3)
        assert next(chunk.uri for chunk in index.reader().chunks(rows)).endswith("d9.md")
    finally:
        index.close()
    assert other.refresh().head == third.head
    for machine in (place, other):
        assert contents(machine.state, third.head.generation) == as_scratch(place, tmp_path)
        assert whole(machine)


def test_a_store_behind_another_machine_is_not_asked(place: Workplace) -> None:
    other = place.other_machine()
    generation = place.refresh().head.generation
    other.refresh()
    place.write("d1.md", "quite another text about bridges")
    place.refresh()
    index = Index.open(other.state, NAME, generation, exact_below=1)
    try:
        reader = index.reader()
        index._load_store(reader)
        reader.dense(place.embedder.embed_query("bridges"), 3)
        assert (reader.store_queries, reader.exact_scans) == (0, 1)
        other.refresh()
        index._load_store(reader)
        reader.dense(place.embedder.embed_query("bridges"), 3)
        assert reader.store_queries == 1
    finally:
        index.close()


def test_two_machines_do_not_rebuild_their_stores_in_turn(place: Workplace) -> None:
    other = place.other_machine()
    place.refresh()
    other.refresh()
    for machine in (place, other, place, other):
        done = machine.refresh()
        assert (done.rebuilt, done.seconds.get("write")) == (0, None), "nothing was opened"


def test_a_slot_that_was_never_committed_is_another_machines(place: Workplace, tmp_path: Path) -> None:
    generation = place.refresh().head.generation
    manifest = Manifest.open(place.state, NAME)
    record = manifest.arena("words-1")
    assert record is not None
    arena = kept_vectors.opened(manifest, record)
    arena.append(np.full((3, record.dimension), 0.5, dtype=np.float32))  # and killed before the commit
    arena.close()
    manifest.close()
    other = place.other_machine()
    other.write("new.md", "words that take the same slots\n\nas those of the machine that was killed")
    head = other.refresh().head
    assert place.refresh().head == head
    assert contents(place.state, generation) == as_scratch(place, tmp_path)


def test_a_copy_of_vectors_that_rots_is_copied_again_not_embedded(place: Workplace) -> None:
    place.refresh()
    path = next((place.folder / "vectors").glob("*.f32"))
    data = bytearray(path.read_bytes())
    data[5] ^= 0xFF
    path.write_bytes(data)
    assert not verify(place.config, place.state, Options(embedder=place.embedder)).ok
    before = len(place.embedder.texts)
    assert repair(place.config, place.state, Options(embedder=place.embedder)).ok
    assert len(place.embedder.texts) == before
    shutil.rmtree(place.folder)
    place.refresh()
    assert len(place.embedder.texts) == before
    assert whole(place)


def test_a_restored_database_brings_no_stale_vectors(place: Workplace, tmp_path: Path) -> None:
    assert place.state.sql_url is not None
    place.refresh()
    backup = database(place.state.sql_url, "backup", template=str(make_url(place.state.sql_url).database))
    place.write("new.md", "\n\n".join(f"lost words {n} " * 8 for n in range(6)))
    place.refresh()
    place.state = place.state.model_copy(update={"sql_url": backup})
    for paragraphs in (2, 9):  # fewer slots than this machine has, then more
        place.write("new.md", "\n\n".join(f"other words {n} " * 8 for n in range(paragraphs)))
        head = place.other_machine().refresh().head
        assert place.refresh().head == head
        assert contents(place.state, head.generation) == as_scratch(place, tmp_path)
        assert whole(place)


def test_one_machine_at_a_time_writes(place: Workplace) -> None:
    place.refresh()
    other = place.other_machine()
    with Manifest.writing(place.state, NAME), pytest.raises(ConflictError, match="another machine"):
        other.refresh()
    other.write("new.md", "now it may")
    assert other.refresh().added == 1


def test_documents_are_listed_deleted_and_restored_on_either_machine(place: Workplace) -> None:
    place.refresh()
    other = place.other_machine()
    page = listing(other.state, NAME, Query("*d[12].md", group="everyone", limit=1))
    assert [one.uri.rpartition("/")[2] for one in page.documents] == ["d1.md"]
    assert listing(other.state, NAME, Query("*d[12].md", after=page.next or "")).documents[0].uri.endswith("d2.md")
    assert listing(other.state, NAME, Query("*d[^12].md", group="hr")).documents == ()
    uri = page.documents[0].uri
    delete(other.state, NAME, [uri], actor="ann", reason="test")
    assert place.refresh().head.documents == 3
    assert [one.state for one in listing(place.state, NAME, Query("d1")).documents] == ["deleted"]
    restore(place.state, NAME, [uri])
    assert other.refresh().head.documents == 4
    assert whole(other)
    assert status(place.state, NAME).generations[0].head == other.refresh().head


def test_what_one_machine_forgets_no_other_takes_up_again(place: Workplace) -> None:
    generation = place.refresh().head.generation
    uri = str(place.docs / "d1.md")
    other = place.other_machine()
    report = forget(place.state, request_of([listing(place.state, NAME, Query("d1")).documents[0].uri], None))
    assert report.generations == {NAME: [generation]}
    assert not (place.state.root / forgotten.FILE_NAME).exists()
    assert other.refresh().head.documents == 3
    manifest = Manifest.open(other.state, NAME)
    try:
        assert not manifest.query("SELECT 1 FROM chunks WHERE text LIKE ?", ("%topic1%",))
    finally:
        manifest.close()
    assert whole(other), uri


def test_dead_rows_vectors_and_generations_are_given_back(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SPARE_SLOTS", 2)
    monkeypatch.setattr(compaction, "SPARE_ROWS", 2)
    first = place.refresh().head
    other = place.other_machine()
    other.refresh()
    for n in (0, 1, 2):
        (place.docs / f"d{n}.md").unlink()
    done = place.refresh(allow_mass_delete=True)
    assert done.head.size == done.head.chunks
    manifest = Manifest.open(place.state, NAME)
    record = manifest.arena("words-1")
    manifest.close()
    assert record is not None
    assert record.slots == done.head.chunks < first.chunks
    assert other.refresh().head == done.head
    assert contents(other.state, done.head.generation) == contents(place.state, done.head.generation)
    place.chunk_chars = 120
    newer = place.refresh().head
    with Manifest.writing(place.state, NAME) as manifest:
        cleaning.remove_generations(manifest, [done.head.generation])
        assert [name for _, name in manifest.generations()] == [newer.generation]
    assert place.refresh().head == newer
    assert whole(place)


def test_a_server_killed_in_a_transaction_of_a_refresh_loses_nothing(tmp_path: Path) -> None:
    with postgresql_process() as server:
        place = Workplace.shared(tmp_path, server.url)
        place.write("a.md", "what is known about rivers")
        place.refresh()
        for at in (2, 3, 5):  # vectors, staged documents, the head
            place.write("b.md", f"what is new about bridges {at}")
            _kill_within(server, place, at)
            server.start()
            head = place.refresh().head
            assert whole(place)
        assert contents(place.state, head.generation) == as_scratch(place, tmp_path)


def test_a_reader_outlives_its_server(tmp_path: Path) -> None:
    with postgresql_process() as server:
        place = Workplace.shared(tmp_path, server.url)
        place.write("a.md", "what is known about rivers")
        first = place.refresh().head
        index = Index.open(place.state, NAME, first.generation)
        try:
            reader = index.reader()
            server.kill()
            assert index.reader() is reader
            assert len(reader.lexical("rivers").top(3)[0]) == 1
            with pytest.raises(UnavailableError, match="does not answer"):
                reader.chunks([0])
            server.start()
            with index._lock:  # as the thread that follows does
                index._check()
            assert reader.chunks([0])[0].text == "what is known about rivers"
            place.write("b.md", "what is new about bridges")
            head = place.refresh().head
            with index._lock:  # as the thread that follows does
                index._check()
            assert index.reader().head == head
        finally:
            index.close()
            del index, reader  # their views are connections, which the server waits for


def _kill_within(server: PostgresqlProcess, place: Workplace, at: int) -> None:
    """Refresh, with the server killed within the transaction of this number."""
    from contextlib import contextmanager

    whole_transaction, left = Manifest.transaction, [at]

    @contextmanager
    def transaction(manifest: Manifest) -> Iterator[None]:
        with whole_transaction(manifest):
            yield
            left[0] -= 1
            if left[0] == 0:
                server.kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "transaction", transaction)
        with pytest.raises(UnavailableError, match="does not answer"):
            place.refresh()
    assert left[0] == 0


def test_an_index_in_a_folder_is_not_left_behind_by_the_way(tmp_path: Path, fresh_database: Callable[[], str]) -> None:
    place = Workplace.at(tmp_path)
    place.write("a.md", "a text")
    place.refresh()
    place.state = StateConfig(dir=place.state.dir, sql_url=fresh_database())
    with pytest.raises(ConflictError, match="ingested into its folder"):
        place.refresh()


def test_an_index_of_the_format_before_is_brought_up_in_its_database(place: Workplace) -> None:
    head = place.refresh().head
    manifest = Manifest.open(place.state, NAME)
    for statement in ("DROP TABLE derived", "DROP TABLE replies", "UPDATE written SET version = 2",
                      *(f"ALTER TABLE tombstones DROP COLUMN {column}" for column in ("size", "sha256"))):  # fmt: skip
        manifest.db.execute(statement)
    manifest.close()
    assert place.other_machine().refresh().head == head
    uri = str(place.docs / "d1.md")
    delete(place.state, NAME, [uri], actor="ann", reason="test")
    (place.docs / "d1.md").rename(place.docs / "renamed.md")
    assert [q.code for q in place.refresh().quarantined] == ["deleted"]


def test_an_index_that_is_nowhere_is_not_made_by_reading(place: Workplace) -> None:
    with pytest.raises(NotFoundError, match="no index"):
        listing(place.state, NAME, Query())
    with pytest.raises(NotFoundError, match="no index"):
        delete(place.state, NAME, ["x"], actor="ann", reason="test")
    assert not place.folder.exists()
    gone = StateConfig(dir=place.state.dir, sql_url="postgresql://me:hushhush@/db?host=/nonexistent")
    with pytest.raises(UnavailableError) as told:
        listing(gone, NAME, Query())
    assert "hushhush" not in json.dumps([told.value.what, told.value.where, told.value.hint])

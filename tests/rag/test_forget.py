"""The right to be forgotten: no byte of a forgotten document, or of a person's exchanges, is left, and nothing brings
either back."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.support.embedder import WordEmbedder
from tests.support.indexes import EVERYBODY, NAME, Workplace, contents
from tests.support.zygote import Zygote

from llmops.core.drain import Drainer
from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.ids import new_id
from llmops.core.lake import Lake
from llmops.core.spool import Spool
from llmops.rag.config import BucketSource
from llmops.rag.forget import forget, plan, request_of, unfinished
from llmops.rag.forgotten import Forgotten
from llmops.rag.index.reader import Index
from llmops.rag.ingest import erasure
from llmops.rag.ingest.documents import Query, delete, listing
from llmops.rag.ingest.refresh import Options, refresh
from llmops.rag.ingest.verify import verify

LOG, FEEDBACK = "dev.serving.inference_log", "dev.serving.feedback"
SECRET = "The merger with Quuxcorp closes in the third week of May"
WORD = "quuxcorp"


@pytest.fixture
def place(tmp_path) -> Workplace:
    place = Workplace.at(tmp_path)
    for n in range(4):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"alpha {n} paragraph {p} " * 8 for p in range(3)))
    place.write("secret.md", f"# Plans\n\n{SECRET}.\n\nA sentence about nothing.\n")
    return place


@pytest.fixture(scope="module")
def zygote():
    process = Zygote()
    yield process
    process.close()


def uri(place: Workplace, name: str = "secret.md") -> str:
    return str(place.docs / name)


def row(request: str, requester: str, asked: str, said: str, layer: str = "serving") -> dict[str, object]:
    now = datetime.now(UTC)
    return {
        "invocation_id": new_id(), "layer": layer, "request_id": request, "request_time": now.isoformat(),
        "request_date": now.date().isoformat(), "endpoint": "chat", "assignment_p": 1.0, "status_code": 200,
        "input_tokens": 7, "request_json": json.dumps({"messages": [asked]}),
        "response_json": json.dumps({"text": said}), "requester": requester,
    }  # fmt: skip


def thumb(request: str, who: str, words: str) -> dict[str, object]:
    now = datetime.now(UTC).isoformat()
    return {"feedback_id": new_id(), "request_id": request, "event_time": now, "source": "human", "source_id": who,
            "name": "thumb", "value_num": 1.0, "rationale": words}  # fmt: skip


def exchanges(place: Workplace) -> list[dict[str, object]]:
    """Ann was told the secret, by the gateway too; Bob was not."""
    return [
        row("r1", "session:ann", "what about May?", f"{SECRET} [1]"),
        row("r1", "key:chain", f"passages: {SECRET}", "told", layer="gateway"),
        row("r1", "key:judge", "is it so?", "yes", layer="judge"),
        row("r2", "session:anna", "alpha?", "alpha"),
        row("r4", "session:bob", "and May?", "In other words.") | {"response_json": json.dumps([{"uri": uri(place)}])},
    ]


def everything(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, Parquet and SQLite read as what they are."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
            if path.suffix == ".parquet":
                found[f"{path} rows"] = repr(pq.read_table(path).to_pylist()).encode()
    return found


def holders(place: Workplace, *needles: str) -> set[str]:
    found = everything(place.state.root)
    return {name for name, data in found.items() if any(n.encode() in data for n in needles)}


def test_no_byte_of_a_forgotten_document_is_left_and_its_source_does_not_bring_it_back(place):
    place.write("copy.md", (place.docs / "secret.md").read_text())
    old = place.refresh().head.generation
    vectors = len(contents(place.state, old)["vectors"])
    place.embedder = WordEmbedder("words-2")
    new = place.refresh().head.generation
    with Spool(place.state.spool) as spool:
        for one in exchanges(place):
            spool.append(LOG, one)
        spool.append(FEEDBACK, thumb("r1", "session:ann", f"nice: {SECRET}"))
        Drainer(place.state).drain_once()
        spool.append(LOG, exchanges(place)[0] | {"request_id": "r3"})
        spool.append(LOG, {"invocation_id": "broken", "response_json": SECRET})  # a dead letter, once it is drained
        report = forget(place.state, request_of([uri(place)], None))
        assert [one.path for one in report.remains] == []
        assert holders(place, SECRET, "Quuxcorp", "secret.md", "copy.md") == set()
    assert report.documents == [uri(place, "copy.md"), uri(place)]
    assert report.generations == {NAME: sorted([old, new])}
    assert (report.blanked, report.deleted, report.dead_letters) == ({LOG: 5, FEEDBACK: 1}, {}, 1)
    rows = {(r["request_id"], r["layer"]): r for r in Lake(place.state).rows(LOG)}
    assert rows["r2", "serving"]["response_json"] == json.dumps({"text": "alpha"})
    assert rows["r1", "judge"]["response_json"] == '{"forgotten":true}'
    assert rows["r1", "gateway"]["input_tokens"] == 7
    assert [r["rationale"] for r in Lake(place.state).rows(FEEDBACK)] == [None]
    for generation in (old, new):
        assert contents(place.state, generation)["counts"][0] == 4
        assert WORD not in repr(contents(place.state, generation)["documents"]).lower()
    assert len(contents(place.state, old)["vectors"]) < vectors
    shutil.copy(place.docs / "secret.md", place.docs / "under another name.md")
    again = place.refresh(full=True)
    assert (again.added, again.head.documents) == (0, 4)
    assert holders(place, SECRET) == set()
    assert verify(place.config, place.state, Options(embedder=place.embedder)).ok
    assert unfinished(place.state) == []


def test_a_plan_tells_what_would_go_and_changes_nothing(place):
    place.refresh()
    before = everything(place.folder)
    found = plan(place.state, request_of([uri(place)], None))
    assert (found.documents, found.planned) == ([uri(place)], True)
    assert len(found.generations[NAME]) == 1
    assert {k: v for k, v in everything(place.folder).items() if "-shm" not in k} == {
        k: v for k, v in before.items() if "-shm" not in k
    }
    assert Forgotten.read(place.state).uris == frozenset()
    with pytest.raises(NotFoundError, match="nothing here knows"):
        plan(place.state, request_of(["no such.md"], None))
    for wrong in (request_of, lambda *_: request_of(["a"], "b")):
        with pytest.raises(UserError):
            wrong([], None)


def test_a_persons_exchanges_go_whole_and_nobody_elses(place):
    with Spool(place.state.spool) as spool:
        for one in exchanges(place):
            spool.append(LOG, one)
        spool.append(FEEDBACK, thumb("r1", "session:ann", "thanks"))
        spool.append(FEEDBACK, thumb("r2", "session:ann", "somebody else's answer"))
        spool.append(FEEDBACK, thumb("r2", "session:anna", "mine"))
        report = forget(place.state, request_of([], "session:ann"))
        assert report.deleted == {LOG: 3, FEEDBACK: 2}
        assert sorted(r["requester"] for r in Lake(place.state).rows(LOG)) == ["session:anna", "session:bob"]
        assert [r["source_id"] for r in Lake(place.state).rows(FEEDBACK)] == ["session:anna"]
        needles = ('session:ann"', "'session:ann'", "what about May", "is it so", "thanks")
        assert holders(place, *needles) == set()
        spool.append(LOG, row("r9", "session:carl", "later", "still works"))
    assert Drainer(place.state).drain_once() == 1
    assert len(Lake(place.state).rows(LOG)) == 3


def test_copies_of_remote_sources_go_and_are_not_fetched_again(place):
    source = BucketSource(bucket=f"file://{place.docs}")
    config = place.config.model_copy(update={"sources": (source,)})
    options = Options(embedder=place.embedder)
    assert refresh(config, place.state, options).head.documents == 5
    (listed,) = listing(place.state, NAME, Query("secret.md")).documents
    assert listed.source == "bucket"
    report = forget(place.state, request_of([listed.uri], None))
    assert len(report.sources) == 1
    assert report.remains == []
    again = refresh(config, place.state, options)
    assert (again.head.documents, again.quarantined) == (4, ())
    assert holders(place, SECRET, "secret.md") == set()


def test_a_forgotten_document_is_not_even_copied_from_another_place(place):
    place.refresh()
    forget(place.state, request_of([uri(place)], None))
    moved = place.docs.parent / "moved"
    moved.mkdir()
    (place.docs / "secret.md").rename(moved / "renamed.md")
    (moved / "other.md").write_text("another text")
    config = place.config.model_copy(update={"sources": (BucketSource(bucket=f"file://{moved}"),)})
    options = Options(embedder=place.embedder, allow_mass_delete=True)
    done = refresh(config, place.state, options)
    assert (done.head.documents, done.quarantined) == (1, ())
    assert holders(place, SECRET) == set()


def test_what_was_deleted_first_is_known_again_by_its_bytes_once_it_is_forgotten(place):
    place.refresh()
    delete(place.state, NAME, [uri(place)], actor="ann", reason="wrong")
    forget(place.state, request_of([uri(place)], None))
    (place.docs / "secret.md").rename(place.docs / "renamed.md")
    again = place.refresh()
    assert (again.head.documents, again.quarantined) == (4, ())
    assert holders(place, SECRET, "secret.md") == set()


def test_what_lies_outside_of_the_folder_is_told(place):
    place.refresh()
    state = place.state.model_copy(update={"mlflow_uri": "http://mlflow.example"})
    assert any("MLflow's servers" in text for text in forget(state, request_of([uri(place)], None)).out_of_reach)


def test_a_damaged_list_stops_the_refresh_and_half_a_line_is_none(place):
    place.refresh()
    forget(place.state, request_of([uri(place)], None))
    path = place.state.root / "forgotten.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"uri": "half')
    assert place.refresh().head.documents == 4
    forget(place.state, request_of([uri(place, "d1.md")], None))
    assert len(path.read_bytes().splitlines()) == len(whole.splitlines()) + 2  # the uri, and uri with bytes
    path.write_bytes(b"garbage\n" + whole)
    with pytest.raises(IntegrityError, match="forgotten is damaged"):
        place.refresh()


def test_a_running_reader_moves_to_the_state_without_it(place, monkeypatch):
    monkeypatch.setattr(erasure, "_READERS_S", 120.0)  # the reader's thread may wait long for its turn
    generation = place.refresh().head.generation
    index = Index(place.state, NAME, generation)
    try:
        assert index.reader().document(uri(place), EVERYBODY)
        report = forget(place.state, request_of([uri(place)], None))
        assert report.remains == []
        with pytest.raises(NotFoundError):
            index.reader().document(uri(place), EVERYBODY)
        assert index.reader().head.documents == 4
        assert index.reader().lexical("paragraph").top(3)[0].size == 3
    finally:
        index.close()


@pytest.mark.kill
@pytest.mark.parametrize("kill_at", [1, 6, 12, 18])
def test_forgetting_that_was_killed_is_finished_by_resuming(place, zygote, kill_at):
    place.refresh()
    with Spool(place.state.spool) as spool:
        for one in exchanges(place):
            spool.append(LOG, one)
    Drainer(place.state).drain_once()
    assert zygote.run(state=str(place.state.dir), forget=[uri(place)], kill_at=kill_at)["status"] == -9
    for note in unfinished(place.state) or [request_of([uri(place)], None)]:
        assert forget(place.state, note).remains == []
    assert holders(place, SECRET, "secret.md") == set()
    assert place.refresh().head.documents == 4
    assert len(Lake(place.state).rows(LOG)) == 5
    assert verify(place.config, place.state, Options(embedder=place.embedder)).ok

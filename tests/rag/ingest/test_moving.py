"""An index goes from its folder into PostgreSQL and back: whole, proven, and whatever kills it on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.support.indexes import NAME, Workplace, contents
from tests.support.zygote import Zygote

from llmops.cli.main import run
from llmops.core.errors import ConflictError, IntegrityError, LlmopsError, NotFoundError, UserError
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.rag.forget import forget, request_of
from llmops.rag.forgotten import FILE_NAME as FORGOTTEN
from llmops.rag.ingest import moving
from llmops.rag.ingest.documents import delete
from llmops.rag.ingest.moving import move
from llmops.rag.ingest.refresh import Options
from llmops.rag.ingest.verify import verify
from llmops.rag.manifest import FILE_NAME, Head, Manifest
from llmops.rag.tombstones import tombstones

pytestmark = pytest.mark.postgresql


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An index with all there is: two refreshes, a deleted and a forgotten document, one in quarantine."""
    place = Workplace.at(tmp_path)
    for n in range(6):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"topic{n} paragraph{p} word " * 5 for p in range(5)))
    place.write("broken.pdf", "no pdf")
    place.refresh()
    place.write("d0.md", "quite another text about bridges")
    place.refresh()
    delete(place.state, NAME, [str(place.docs / "d4.md")], actor="ann", reason="outdated")
    forget(place.state, request_of([str(place.docs / "d5.md")], None))
    return place


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


def shared(place: Workplace, url: str) -> StateConfig:
    return StateConfig(dir=place.state.dir, sql_url=url)


def test_an_index_moves_into_a_database_and_back_whole(place: Workplace, fresh_database: Callable[[], str]) -> None:
    folder, database = place.state, shared(place, url := fresh_database())
    head = place.refresh().head
    before = contents(folder, head.generation)
    planned = move(database, NAME, None, plan=True)
    assert planned.digests == {head.generation: head.digest}
    assert contents(folder, head.generation) == before
    place.state = database
    with pytest.raises(ConflictError, match="ingested into its folder") as refused:
        place.refresh()
    assert "llmops ingest move" in (refused.value.hint or "")
    done = move(database, NAME, None)
    assert (done.digests, done.rows) == (planned.digests, planned.rows)
    assert not (place.folder / FILE_NAME).exists()
    assert contents(database, head.generation) == before
    place.embedder.texts.clear()
    assert place.refresh().head == head, "nothing has to be done in the new place"
    for name in ("d4.md", "d5.md"):
        (place.docs / name).rename(place.docs / f"renamed-{name}")
    place.write("new.md", "a seventh text about stones")
    again = place.refresh()
    assert (again.added, again.embedded, again.head.documents) == (1, 1, 5)
    assert {q.code for q in again.quarantined} == {"broken", "deleted"}
    other = place.other_machine()
    assert other.refresh().head == again.head, "what was forgotten here is forgotten there"
    after = contents(database, head.generation)
    back = move(folder, NAME, url)
    assert back.digests == {head.generation: again.head.digest}
    place.state = folder
    assert contents(folder, head.generation) == after
    assert place.refresh().head == again.head
    assert verify(place.config, folder, Options(embedder=place.embedder)).ok
    assert (folder.root / FORGOTTEN).exists()
    manifest = Manifest.open(folder, NAME)
    assert [t.reason for t in tombstones(manifest).values()] == ["outdated"]
    manifest.close()
    with pytest.raises(NotFoundError):
        move(folder, NAME, url)
    with pytest.raises(UserError, match="is where"):
        move(folder, NAME, None)


def is_whole(state: StateConfig, head: Head, before: dict[str, object]) -> bool:
    try:
        return contents(state, head.generation) == before
    except LlmopsError:
        return False


@pytest.mark.kill
@pytest.mark.parametrize("way", ["there", "back"])
def test_a_move_that_is_killed_leaves_one_whole_index_and_is_finished_by_the_same_call(
    place: Workplace, fresh_database: Callable[[], str], zygote: Zygote, way: str
) -> None:
    url = fresh_database()
    head = place.refresh().head
    before = contents(place.state, head.generation)
    states = [(place.state, None), (shared(place, url), url)]
    if way == "back":
        move(states[1][0], NAME, None)
        states.reverse()
    (old, origin), (new, _) = states
    job = {"state": str(new.dir), "sql_url": new.sql_url, "move": origin}
    killed = 0
    for kill_at in range(1, 100):
        told = zygote.run(**job, kill_at=kill_at)
        if told["status"] == 0:
            break
        assert told["status"] == -9
        assert is_whole(old, head, before) or is_whole(new, head, before)
        killed += 1
    else:
        pytest.fail("it never comes to its end")
    assert killed >= 4, "it was killed before, in and after both transactions"
    assert contents(new, head.generation) == before
    with pytest.raises(NotFoundError):
        move(new, NAME, origin)
    place.state = new
    assert place.refresh().head == head


def test_two_different_indexes_are_not_taken_for_one(place: Workplace, fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    other = Workplace.shared(place.docs.parent / "elsewhere", url)
    other.write("x.md", "another index of the same name")
    other.refresh()
    place.refresh()
    with pytest.raises(ConflictError, match="different indexes"):
        move(shared(place, url), NAME, None)
    assert place.refresh().head.documents == 4
    assert other.refresh().head.documents == 1


def test_a_copy_that_differs_is_not_committed(
    place: Workplace, fresh_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = shared(place, fresh_database())
    head = place.refresh().head
    copy = moving._copy

    def lossy(source: Manifest, target: Manifest, table: moving._Table) -> None:
        copy(source, target, table)
        if table.name == "tombstones":
            target.db.execute("DELETE FROM tombstones")

    monkeypatch.setattr(moving, "_copy", lossy)
    with pytest.raises(IntegrityError, match="tombstones differ"):
        move(database, NAME, None)
    monkeypatch.undo()
    assert place.refresh().head == head
    arena = next((place.folder / "vectors").glob("*.f32"))
    data = bytearray(arena.read_bytes())
    data[5] ^= 0xFF
    arena.write_bytes(data)
    with pytest.raises(IntegrityError, match="vector"):
        move(database, NAME, None)
    assert (place.folder / FILE_NAME).exists()


def test_it_is_moved_by_a_command_under_rights_and_on_record(
    place: Workplace, fresh_database: Callable[[], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    head = place.refresh().head
    job = {"job": "rag", "state": {"dir": str(place.state.dir), "sql_url": fresh_database()}, "index": {"name": NAME}}
    (tmp_path / "rag.yaml").write_text(json.dumps(job))
    options = ["--config", str(tmp_path / "rag.yaml"), "--json"]
    assert run(["ingest", "move", "--plan", *options]) == 0
    assert json.loads(capsys.readouterr().out)["planned"]
    assert run(["ingest", "move", *options]) == 0
    assert json.loads(capsys.readouterr().out)["digests"] == {head.generation: head.digest}
    with open_sql(StateConfig(**job["state"])) as sql, sql.read() as connection:
        assert "move_index" in {row[0] for row in connection.execute(text("SELECT action_name FROM audit_log"))}

"""Single documents of an index: listed, deleted, restored; and what that means for generations not refreshed."""

from __future__ import annotations

import shutil

import pytest
from tests.support.embedder import WordEmbedder
from tests.support.indexes import EVERYBODY, NAME, Workplace, contents, stored
from tests.support.zygote import Zygote

from llmops.core.errors import ConflictError, NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.rag.config import BucketSource, FolderSource
from llmops.rag.index.snapshot import Snapshot
from llmops.rag.ingest.documents import Query, delete, listing, restore
from llmops.rag.ingest.forecast import forecast
from llmops.rag.ingest.refresh import Options, refresh
from llmops.rag.ingest.status import status
from llmops.rag.ingest.verify import verify
from llmops.rag.manifest import SCHEMA_VERSION, Manifest
from llmops.rag.tombstones import tombstones


@pytest.fixture
def place(tmp_path) -> Workplace:
    place = Workplace.at(tmp_path)
    for n in range(6):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"alpha {n} paragraph {p} " * 8 for p in range(3)))
    return place


@pytest.fixture(scope="module")
def zygote():
    process = Zygote()
    yield process
    process.close()


def uri(place: Workplace, name: str) -> str:
    return str(place.docs / name)


def taken(place: Workplace, *names: str, **options):
    return delete(place.state, NAME, [uri(place, n) for n in names], actor="ann", reason="outdated", **options)


def pages(place: Workplace, **query):
    found, after = [], ""
    while after is not None:
        page = listing(place.state, NAME, Query(after=after, **query))
        found += page.documents
        after = page.next
    return found


def two_generations(place: Workplace) -> tuple[str, str]:
    """An older generation of the same documents, and the one that is refreshed now."""
    old = place.refresh().head.generation
    place.embedder = WordEmbedder("words-2")
    return old, place.refresh().head.generation


def answers(place: Workplace, generation: str, name: str, principal: Principal = EVERYBODY) -> bool:
    """Whether a generation still gives a document to somebody, by search or by its uri."""
    snapshot = Snapshot(Manifest.open(place.state, NAME), generation, {})
    try:
        mask = snapshot.access.mask(principal, {})
        rows = [r for r in snapshot.row_of.values() if mask is None or mask[r]]
        found = any(chunk.uri == uri(place, name) for chunk in snapshot.chunks(rows))
        try:
            snapshot.document(uri(place, name), principal)
        except NotFoundError:
            return found
        return True
    finally:
        snapshot.close()


def test_lists_every_document_with_its_state_page_by_page(place):
    place.write("scan.pdf", "no pdf")
    place.acl = ("hr",)
    place.refresh()
    taken(place, "d1.md")
    found = pages(place, limit=2)
    assert [d.uri for d in found] == sorted(uri(place, n) for n in [*(f"d{n}.md" for n in range(6)), "scan.pdf"])
    states = {d.uri: d.state for d in found}
    assert states[uri(place, "d1.md")] == "deleted"
    assert states[uri(place, "scan.pdf")] == "quarantined"
    first = found[0]
    assert (first.state, first.groups, first.source, first.title) == ("indexed", ("hr",), "files", "Title 0")
    assert first.chunks > 1
    assert first.changed_at <= first.indexed_at
    assert [d.note for d in pages(place, state="deleted")] == ["ann: outdated"]
    assert {d.uri for d in pages(place, group="hr")} == {d.uri for d in found if d.state == "indexed"}
    assert next(d.uri for d in pages(place, match="*/d?.md", state="indexed", limit=2)) == uri(place, "d0.md")
    assert [d.uri for d in pages(place, match="d3")] == [uri(place, "d3.md")]
    with pytest.raises(UserError, match="1 to 1,000"):
        Query(limit=0)


def test_a_deleted_document_stays_out_though_its_source_has_it_until_it_is_restored(place):
    before = contents(place.state, place.refresh().head.generation)
    planned = taken(place, "d2.md", plan=True)
    assert contents(place.state, planned.generations[0]) == before
    assert taken(place, "d2.md") == planned
    again = place.refresh()
    assert (again.added, again.unchanged, again.head.documents) == (0, 5, 5)
    assert not answers(place, again.head.generation, "d2.md")
    assert again.chunks == len(stored(place.state, again.head.generation))
    assert verify(place.config, place.state, Options(embedder=place.embedder)).ok
    place.embedder.texts.clear()
    restore(place.state, NAME, [uri(place, "d2.md")])
    back = place.refresh()
    assert (back.added, back.embedded) == (1, 0)
    assert place.embedder.texts == []
    assert contents(place.state, back.head.generation)["digest"] == before["digest"]


def test_a_second_deletion_keeps_who_deleted_first_and_unknown_documents_are_refused(place):
    place.refresh()
    taken(place, "d2.md")
    done = delete(place.state, NAME, [uri(place, "d2.md"), uri(place, "d3.md")], actor="bob", reason="again")
    assert (done.deleted, done.already) == ((uri(place, "d3.md"),), (uri(place, "d2.md"),))
    manifest = Manifest.open(place.state, NAME)
    assert {t.actor for t in tombstones(manifest).values()} == {"ann", "bob"}
    manifest.close()
    with pytest.raises(NotFoundError) as refused:
        taken(place, "d4.md", "d44.md")
    assert "did you mean" in (refused.value.hint or "")
    assert answers(place, status(place.state, NAME).generations[0].name, "d4.md")
    with pytest.raises(NotFoundError, match="not deleted"):
        restore(place.state, NAME, [uri(place, "d4.md")])


def test_a_document_leaves_older_generations_too(place):
    old, new = two_generations(place)
    taken(place, "d0.md")
    (place.docs / "d1.md").unlink()
    place.write("d9.md", "# Nine\n\nnew")
    assert forecast(place.config, place.state, Options(embedder=place.embedder)).elsewhere == {old: 1}
    place.refresh()
    for name in ("d0.md", "d1.md"):
        assert not answers(place, old, name)
        assert not answers(place, new, name)
    assert answers(place, old, "d2.md")
    assert not answers(place, old, "d9.md")
    assert len(contents(place.state, old)["store"]) == contents(place.state, old)["counts"][1]


def test_readers_who_lost_their_right_lose_it_in_older_generations_too(place):
    old, new = two_generations(place)
    staff = Principal("s", groups=frozenset({"staff"}))
    assert answers(place, old, "d3.md", staff)
    place.acl = ("hr",)
    place.embedder.texts.clear()
    place.refresh()
    assert place.embedder.texts == []
    for generation in (old, new):
        assert not answers(place, generation, "d3.md", staff)
        assert answers(place, generation, "d3.md")


def test_a_vanished_source_empties_no_older_generation_by_way_of_a_new_one(place):
    for n in range(30):
        place.write(f"more/{n}.md", f"beta {n}")
    old = place.refresh().head.generation
    for n in range(30):
        (place.docs / f"more/{n}.md").unlink()
    place.embedder = WordEmbedder("words-2")
    with pytest.raises(ConflictError, match="would remove 30 of 36"):
        place.refresh()
    assert answers(place, old, "more/3.md")
    place.refresh(allow_mass_delete=True)
    assert not answers(place, old, "more/3.md")


@pytest.mark.kill
@pytest.mark.parametrize("kill_at", [2, 6, 9, 14])
def test_a_deletion_that_was_killed_is_finished_by_the_same_call_or_the_next_refresh(place, zygote, kill_at):
    old, new = two_generations(place)
    job = {"state": str(place.state.dir), "delete": [uri(place, "d0.md"), uri(place, "d1.md")]}
    assert zygote.run(**job, kill_at=kill_at)["status"] == -9
    if kill_at % 2:
        taken(place, "d0.md", "d1.md")
    else:
        manifest = Manifest.open(place.state, NAME)
        laid = set(tombstones(manifest))
        manifest.close()
        if not laid:  # killed before it began: nothing was deleted
            assert answers(place, new, "d0.md")
            taken(place, "d0.md", "d1.md")
        place.refresh()
    for generation in (old, new):
        assert not answers(place, generation, "d0.md")
        assert answers(place, generation, "d2.md")
        assert len(contents(place.state, generation)["store"]) == contents(place.state, generation)["counts"][1]


def test_a_deleted_document_does_not_come_back_under_another_name(place):
    old, _ = two_generations(place)
    taken(place, "d2.md")
    (place.docs / "d2.md").rename(place.docs / "renamed.md")
    elsewhere = place.docs.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(place.docs / "renamed.md", elsewhere / "copied.md")
    second = FolderSource(path=str(elsewhere)), BucketSource(bucket=f"file://{elsewhere}")
    config = place.config.model_copy(update={"sources": (*place.config.sources, *second)})
    names = {uri(place, "renamed.md"), str(elsewhere / "copied.md"), f"file://{elsewhere}/copied.md"}
    for full in (False, True):
        done = refresh(config, place.state, Options(embedder=place.embedder, full=full))
        assert {q.uri: q.code for q in done.quarantined} == dict.fromkeys(names, "deleted")
        assert uri(place, "d2.md") in done.quarantined[0].reason
        for generation in (old, done.head.generation):
            assert not names & {document[0] for document in contents(place.state, generation)["documents"]}
            assert not answers(place, generation, "renamed.md")
    restore(place.state, NAME, [uri(place, "d2.md")])
    back = refresh(config, place.state, Options(embedder=place.embedder))
    assert (back.added, back.embedded, back.quarantined) == (3, 0, ())


def test_a_copy_that_was_left_in_the_index_on_purpose_stays(place):
    shutil.copy(place.docs / "d2.md", place.docs / "copy.md")
    place.refresh()
    taken(place, "d2.md")
    again = place.refresh(full=True)
    assert (again.head.documents, again.quarantined) == (6, ())
    assert answers(place, again.head.generation, "copy.md")
    taken(place, "copy.md")
    shutil.copy(place.docs / "copy.md", place.docs / "a third.md")
    assert [q.code for q in place.refresh().quarantined] == ["deleted"]


@pytest.mark.parametrize("version", [1, 2])
def test_an_index_of_a_format_before_is_brought_up_in_place(place, version):
    head = place.refresh().head
    manifest = Manifest.open(place.state, NAME)
    for table in ("derived", "replies"):
        manifest.db.execute(f"DROP TABLE {table}")
    if version == 1:
        manifest.db.execute("DROP TABLE tombstones")
    else:
        for column in ("size", "sha256"):
            manifest.db.execute(f"ALTER TABLE tombstones DROP COLUMN {column}")
    manifest.db.execute(f"PRAGMA user_version = {version}")
    manifest.close()
    assert place.refresh().head == head
    manifest = Manifest.open(place.state, NAME)
    assert manifest.query("PRAGMA user_version")[0][0] == SCHEMA_VERSION
    assert tombstones(manifest) == {}
    manifest.close()
    taken(place, "d1.md")
    assert place.refresh().head.documents == 5

"""Facts of headings and of a model, as a refresh keeps them: asked once, at bounded cost, whatever fails meanwhile."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
from tests.support.indexes import EVERYBODY, NAME, Workplace, contents
from tests.support.upstream import Reply, Upstream, running_upstream
from tests.support.zygote import Zygote

from llmops.core.errors import ConfigError
from llmops.core.state import StateConfig
from llmops.rag.config import IndexConfig
from llmops.rag.facts import derive
from llmops.rag.facts.config import DeclaredFact, ExtractionConfig, FactsConfig
from llmops.rag.forget import forget, request_of
from llmops.rag.index.reader import Index
from llmops.rag.ingest.forecast import forecast
from llmops.rag.ingest.refresh import Options, Refresh, refresh
from llmops.rag.ingest.status import inspect
from llmops.rag.manifest import Manifest

KIND = DeclaredFact(name="kind", values=("report", "minutes"), description="what sort of document it is")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    place = Workplace.at(tmp_path)
    for n in range(4):
        place.write(f"d{n}.md", f"# Report {n} of {2020 + n}\n\nRivers number {n} rise.")
    return place


@pytest.fixture
def upstream():
    with running_upstream() as running:
        running.answer = lambda seen: says({"kind": "report"})
        yield running


def says(facts: object) -> Reply:
    return Reply((json.dumps({"facts": facts}),))


def config(place: Workplace, upstream: Upstream | None, **changes: object) -> IndexConfig:
    changes = {"facts": (KIND,), **changes}
    llm = ExtractionConfig(model="m", url=upstream.url, **changes) if upstream else None
    facts = FactsConfig(headings=("Report * of {year:int}",), llm=llm)
    return place.config.model_copy(update={"facts": facts})


def refreshed(place: Workplace, upstream: Upstream | None, **changes: object) -> Refresh:
    return refresh(config(place, upstream, **changes), place.state, Options(embedder=place.embedder))


def facts(place: Workplace, name: str) -> dict[str, object]:
    return inspect(place.state, NAME, str(place.docs / name)).metadata


def matching(place: Workplace, filters: dict[str, object]) -> int:
    index = Index.open(place.state, NAME, None)
    try:
        mask = index.reader().allowed(EVERYBODY, filters)
        return index.reader().size if mask is None else int(mask.sum())
    finally:
        index.close()


def test_headings_and_a_model_state_facts_that_filters_find(place, upstream):
    upstream.answer = lambda seen: says({"kind": "Minutes" if "number 1" in str(seen.messages) else "report", "x": 1})
    done = refreshed(place, upstream)
    assert (done.facts.asked, done.facts.dropped, done.facts.failed, done.facts.left) == (4, 4, 0, 0)
    assert (facts(place, "d1.md")["kind"], facts(place, "d1.md")["year"]) == ("minutes", 2021)
    assert matching(place, {"kind": "minutes"}) == 1
    assert matching(place, {"year": {"from": 2021}}) == 3
    (sent, *_) = upstream.requests
    assert {name.lower(): value for name, value in sent.headers.items()}["cache-control"] == "no-store"
    assert str(place.docs) not in json.dumps(sent.body), "the model sees no path: a rename asks nothing"
    assert "wanted" in sent.messages[0]["content"]


def test_nothing_is_asked_twice_and_facts_alone_embed_nothing(place, upstream):
    plain = place.refresh()
    place.embedder.texts.clear()
    first = refreshed(place, upstream)
    assert (first.facts.asked, first.facts.cached, first.embedded, first.head.seq) == (4, 0, 0, plain.head.seq + 1)
    assert first.head.digest == plain.head.digest
    (place.docs / "d0.md").rename(place.docs / "renamed.md")
    second = refreshed(place, upstream)
    assert (second.renamed, second.facts.asked) == (1, 0)
    assert facts(place, "renamed.md")["kind"] == "report"
    third = refreshed(place, upstream)
    assert (third.facts.asked, third.facts.cached, third.head) == (0, 0, second.head)
    wider = (KIND, DeclaredFact(name="day", type="date", description="its day"))
    assert refreshed(place, upstream, facts=wider).facts.asked == 4, "another schema is another question"
    assert refreshed(place, upstream).facts.cached == 4, "back to the first: its replies are still there"
    assert refreshed(place, upstream, version="2").facts.asked == 4
    assert place.embedder.texts == []
    gone = refresh(place.config, place.state, Options(embedder=place.embedder))
    assert gone.embedded == 0
    assert set(facts(place, "d1.md")).isdisjoint({"kind", "year"}), "without the section the facts are gone"


def test_only_an_edit_that_the_model_would_see_is_asked_again(place, upstream):
    place.write("long.md", "# Long\n\n" + "word " * 100)
    refreshed(place, upstream, shown_chars=200)
    place.write("long.md", "# Long\n\n" + "word " * 100 + "more")
    assert refreshed(place, upstream, shown_chars=200).facts.asked == 0
    place.write("long.md", "# Long\n\nother " + "word " * 100)
    assert refreshed(place, upstream, shown_chars=200).facts.asked == 1
    assert facts(place, "long.md")["kind"] == "report"


def test_calls_are_bounded_and_the_rest_follows(place, upstream):
    planned = forecast(config(place, upstream, max_calls=3), place.state, Options(embedder=place.embedder))
    assert (planned.to_ask, planned.calls) == (4, 3)
    assert upstream.requests == []
    first = refreshed(place, upstream, max_calls=3)
    assert (first.facts.asked, first.facts.left, first.head.documents) == (3, 1, 4)
    planned = forecast(config(place, upstream, max_calls=3), place.state, Options(embedder=place.embedder))
    assert (planned.to_ask, planned.calls) == (1, 1)
    second = refreshed(place, upstream, max_calls=3)
    assert (second.facts.asked, second.facts.left) == (1, 0)
    assert matching(place, {"kind": "report"}) == 4


def test_a_model_that_fails_costs_no_document_and_is_asked_again_later(place, upstream, monkeypatch):
    now = [1_000_000_000.0]
    monkeypatch.setattr(derive.time, "time", lambda: now[0])
    upstream.answer = lambda seen: (
        Reply(status=400, error="no such model")
        if "number 2" in str(seen.messages)
        else Reply(("nonsense",))
        if "number 3" in str(seen.messages)
        else says({"kind": "report"})
    )
    first = refreshed(place, upstream)
    assert (first.head.documents, first.quarantined, first.facts.failed) == (4, (), 2)
    assert first.facts.reason
    assert facts(place, "d2.md")["year"] == 2022
    assert "kind" not in facts(place, "d2.md")
    upstream.answer = lambda seen: says({"kind": "minutes"})
    again = refreshed(place, upstream)
    assert (again.facts.asked, again.head) == (0, first.head), "not before its time"
    now[0] += 61
    later = refreshed(place, upstream)
    assert (later.facts.asked, later.facts.failed, later.embedded) == (2, 0, 0)
    assert matching(place, {"kind": "minutes"}) == 2


def test_a_model_that_is_down_is_not_asked_for_every_document(place, upstream):
    for n in range(20):
        place.write(f"more{n}.md", f"# Report {n} of 2001\n\nmore {n}")
    upstream.answer = lambda seen: Reply(status=400, error="down")
    place.refresh()
    done = refreshed(place, upstream, at_once=1)
    assert (done.head.documents, done.head.seq) == (24, 2), "the headings' facts are there"
    assert (done.facts.asked, done.facts.failed, done.facts.left) == (5, 5, 19)


def test_a_key_that_leads_nowhere_stops_before_anything_is_embedded(place, upstream, monkeypatch):
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ConfigError):
        refreshed(place, upstream, api_key="env:NOT_THERE")
    assert place.embedder.texts == []


def test_what_a_killed_refresh_was_told_is_not_asked_again(place, upstream):
    zygote = Zygote()
    job = {"config": config(place, upstream, at_once=1).model_dump(mode="json"), "state": str(place.state.dir)}

    def answer(seen: object) -> Reply:
        if len(upstream.requests) == 3:  # two replies are in, the third never comes
            os.kill(child_of(zygote), signal.SIGKILL)
        return says({"kind": "report"})

    upstream.answer = answer
    try:
        killed = zygote.run(**job, embedder=place.embedder.fingerprint)
    finally:
        zygote.close()
    assert killed["status"] == -signal.SIGKILL
    upstream.answer = lambda seen: says({"kind": "report"})
    done = refreshed(place, upstream, at_once=1)
    assert (done.facts.cached, done.facts.asked, done.embedded) == (2, 2, 0)
    scratch = place.scratch(place.docs.parent / "scratch")
    assert contents(place.state, done.head.generation)["digest"] == scratch.refresh().head.digest


def child_of(zygote: Zygote) -> int:
    pid = zygote._process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_replies_to_a_forgotten_document_are_erased(place, upstream):
    people = DeclaredFact(name="person", description="who wrote it")
    upstream.answer = lambda seen: says({"person": "Quuxmann" if "number 2" in str(seen.messages) else "Ann"})
    refreshed(place, upstream, facts=(people,))
    (place.docs / "d2.md").write_text("# Report 2 of 2022\n\nanother text")
    refreshed(place, upstream, facts=(people,))
    forget(place.state, request_of([str(place.docs / "d2.md")], None))
    manifest = Manifest.open(place.state, NAME)
    try:
        assert {row[0] for row in manifest.query("SELECT facts FROM replies")} == {'{"person": "Ann"}'}
        assert manifest.query("SELECT count(*) FROM derived")[0][0] == 3
    finally:
        manifest.close()
    for path in place.state.root.rglob("*"):
        assert not path.is_file() or b"Quuxmann" not in path.read_bytes(), path


@pytest.mark.postgresql
def test_machines_that_share_an_index_share_the_replies(place, upstream, fresh_database):
    shared = dataclasses.replace(place, state=StateConfig(dir=place.state.dir, sql_url=fresh_database()))
    assert refreshed(shared, upstream).facts.asked == 4
    other = shared.other_machine()
    other.write("d9.md", (place.docs / "d1.md").read_text())
    done = refreshed(other, upstream)
    assert (done.added, done.facts.asked, done.facts.cached) == (1, 0, 1)
    assert matching(other, {"kind": "report", "year": 2021}) == 2

"""`ingest list | delete | restore` and `forget` as people type them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.indexes import NAME, Workplace

from llmops.cli.main import run
from llmops.core.drain import Drainer
from llmops.core.ids import new_id
from llmops.core.people.conversations import Begun, Concluded, Conversations, Place
from llmops.core.spool import Spool
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.finetune.runs import open_run
from llmops.registry.assets import Registry
from llmops.registry.audit import Wanted


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    place = Workplace.at(tmp_path)
    for n in range(4):
        place.write(f"d{n}.md", f"# Title {n}\n\nalpha {n}, a sentence that is nowhere else.\n")
    place.refresh()
    (tmp_path / "configs").mkdir()
    config = {
        "job": "rag", "state": {"dir": str(place.state.dir)},
        "index": {"name": NAME, "sources": [{"path": str(place.docs)}]},
    }  # fmt: skip
    (tmp_path / "configs/rag.yaml").write_text(json.dumps(config))
    return place


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_documents_are_listed_deleted_and_restored(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    uris = [d["uri"] for d in said(capsys, "ingest", "list", "*/d?.md")["documents"]]
    assert len(uris) == 4
    assert said(capsys, "ingest", "list", "--limit", "2", "--after", uris[0])["next"] == uris[2]
    planned = said(capsys, "ingest", "delete", uris[1], "--reason", "outdated", "--plan")
    assert said(capsys, "ingest", "delete", uris[1], "--reason", "outdated") == planned
    assert place.refresh().head.documents == 3
    (gone,) = said(capsys, "ingest", "list", "--state", "deleted")["documents"]
    assert (gone["uri"], gone["note"]) == (uris[1], "local: outdated")
    assert said(capsys, "ingest", "restore", uris[1], "--plan")["restored"] == [uris[1]]
    assert run(["ingest", "list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split("\t") == ["document", "state", "chunks", "groups", "source", "changed", "note"]
    assert len(shown) == 5
    assert run(["ingest", "delete", "nothing.md", "--reason", "x"]) == 1
    assert run(["ingest", "delete", uris[0]]) != 0  # a reason is asked for
    assert run(["ingest", "--every", "now and then"]) == 1


def test_forgetting_is_asked_for_told_of_and_on_record_without_a_name(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "docs/d2.md"
    assert run(["forget", uri]) == 1
    assert "--yes" in capsys.readouterr().err
    planned = said(capsys, "forget", uri, "--plan")
    assert planned["planned"]
    done = said(capsys, "forget", uri, "--yes")
    assert (done["documents"], done["remains"]) == ([uri], [])
    assert done["generations"] == planned["generations"] != {}
    assert any("source" in text for text in done["out_of_reach"])
    with Registry(place.state) as registry:
        entries = [entry for entry in registry.read_audit(Wanted()) if entry.action_name == "forget"]
    assert sorted(entry.phase for entry in entries) == ["done", "intent"]
    assert not any("d2.md" in repr(entry) for entry in entries)
    assert said(capsys, "forget", "--resume") == []
    assert place.refresh().head.documents == 3
    assert said(capsys, "forget", "--requester", "session:nobody", "--yes")["deleted"] == {}


def test_what_people_kept_goes_too(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    with open_sql(place.state) as sql:
        kept = Conversations(sql)

        def keep(owner: str, said: str, source: str) -> None:
            turn = Begun(new_id(), Place(owner, str(uuid4())), None, "chat", f"What of {said}?")
            kept.begin(turn)
            kept.conclude(owner, turn.turn_id, Concluded("done", {"answer": f"The {said}."}, frozenset({source})))

        keep("person:ann", "the zeppelin hangar", "docs/d2.md")
        keep("person:ann", "the mayor's bicycle", "docs/d1.md")
        keep("person:bob", "the zeppelin hangar", "docs/d2.md")
        done = said(capsys, "forget", "docs/d2.md", "--yes")
        assert (done["blanked"], done["remains"]) == ({"answers in conversations": 2}, [])
        assert b"The the zeppelin hangar." not in stored(place.state)
        assert b"The the mayor's bicycle." in stored(place.state)
        assert said(capsys, "forget", "--requester", "person:ann", "--yes")["deleted"] == {"conversations": 2}
        assert b"bicycle" not in stored(place.state)
        assert (kept.list("person:ann"), len(kept.list("person:bob"))) == ([], 1)


def stored(state: StateConfig) -> bytes:
    """The bytes of the own state: its file, and its log."""
    return b"".join(path.read_bytes() for path in state.root.glob("*.db*"))


def test_what_was_learned_from_a_person_is_told(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    now, asked = datetime.now(UTC), "Which of our pumps did Ann mend last winter?"
    with Spool(place.state.spool) as spool:
        row = {"invocation_id": new_id(), "layer": "serving", "request_id": "r1", "endpoint": "chat"}
        times = {"request_time": now.isoformat(), "request_date": now.date().isoformat(), "assignment_p": 1.0}
        body = json.dumps({"messages": [{"role": "user", "content": asked}]})
        spool.append("dev.serving.inference_log", row | times | {"requester": "key:ann", "request_json": body})
    Drainer(place.state).drain_once()
    learned = place.state.root / "finetune/feedback/thumbs.jsonl"
    learned.parent.mkdir(parents=True)
    learned.write_text(json.dumps({"prompt": asked, "completion": "None."}) + "\n")
    run_folder = open_run(place.state, name="thumbs", task="kto", identity="0" * 64)
    run_folder.write("job.json", {"data": {"train": [{"path": str(learned)}]}})
    done = said(capsys, "forget", "--requester", "key:ann", "--yes")
    assert done["deleted"] == {"dev.serving.inference_log": 1}
    assert [one["path"] for one in done["remains"] if one["path"].startswith("finetune")] == [
        "finetune/feedback/thumbs.jsonl"
    ]
    assert any(f"the run {run_folder.run_id}" in text for text in done["out_of_reach"])

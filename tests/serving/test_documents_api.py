"""The documents of an index over HTTP: who may ask, what is told, what is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support import serving
from tests.support.indexes import NAME, Workplace
from tests.support.serving import Running, running

from llmops.core.errors import DeniedError
from llmops.core.identity import Principal
from llmops.rag.curation import Curator
from llmops.registry.assets import Registry
from llmops.registry.audit import Wanted

PATH = f"/v1/indexes/{NAME}/documents"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace.at(tmp_path_factory.mktemp("house"))
    for n in range(5):
        place.write(f"d{n}.md", f"# Title {n}\n\nalpha {n}\n")
    place.refresh()
    return place


@pytest.fixture(scope="module")
def server(place: Workplace) -> Iterator[Running]:
    keys = serving.KEYS._known
    keys["lk_index"] = (Principal("key:index", "key"), {"index"})
    with running(place.state.root) as started:
        yield started
    del keys["lk_index"]


@pytest.fixture
def operator(server: Running) -> Iterator[httpx.Client]:
    with server.client(headers={"Authorization": "Bearer lk_index"}) as client:
        yield client


def test_lists_pages_and_inspects(place: Workplace, operator: httpx.Client) -> None:
    first = operator.get(PATH, params={"limit": 3}).json()
    rest = operator.get(PATH, params={"limit": 3, "after": first["next"]}).json()
    assert [d["uri"] for d in first["documents"] + rest["documents"]] == [
        str(place.docs / f"d{n}.md") for n in range(5)
    ]
    assert rest["next"] is None
    one = operator.get(f"{PATH}/inspect", params={"uri": str(place.docs / "d1.md")}).json()
    assert one["chunks"][0]["text"] == "# Title 1\n\nalpha 1"
    assert operator.get(PATH, params={"limit": 0}).status_code == 400
    assert operator.get("/v1/indexes/dev.docs.other/documents").status_code == 404
    for bad in ("..%2f..", "a/../b", "dev.docs..index"):
        assert operator.get(f"/v1/indexes/{bad}/documents").status_code in (400, 404)


def test_deletes_and_restores_on_record(place: Workplace, operator: httpx.Client) -> None:
    body = {"uris": [str(place.docs / "d3.md")], "reason": "outdated"}
    planned = operator.post(f"{PATH}/delete", json=body | {"plan": True}).json()
    done = operator.post(f"{PATH}/delete", json=body).json()
    assert planned == done
    assert (done["deleted"], done["chunks"]) == (body["uris"], 1)
    assert place.refresh().head.documents == 4
    (gone,) = operator.get(PATH, params={"state": "deleted"}).json()["documents"]
    assert gone["note"] == "key:index: outdated"
    assert operator.post(f"{PATH}/restore", json={"uris": body["uris"]}).json()["restored"] == body["uris"]
    assert operator.post(f"{PATH}/restore", json={"uris": body["uris"]}).status_code == 404
    assert place.refresh().head.documents == 5
    with Registry(place.state) as registry:
        entries = [
            e for e in registry.read_audit(Wanted()) if e.action_name in ("delete_documents", "restore_documents")
        ]
    phases = sorted((e.action_name, e.phase) for e in entries if e.actor == "key:index")
    assert phases == [
        ("delete_documents", "done"), ("delete_documents", "intent"),
        ("restore_documents", "done"), ("restore_documents", "failed"),
        ("restore_documents", "intent"), ("restore_documents", "intent"),
    ]  # fmt: skip


@pytest.mark.parametrize("token", ["lk_one", "lk_board", "lk_gateway", "lk_wrong"])
def test_other_keys_and_browsers_are_no_operators(server: Running, token: str) -> None:
    body = {"uris": ["d"], "reason": "x"}
    with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get(PATH).status_code in (401, 403)
        assert client.post(f"{PATH}/delete", json=body).status_code in (401, 403)
    with server.client() as browser:
        assert browser.get(PATH).status_code == 200  # a program of this machine, where no keys are required
        browser.post("/v1/session")
        assert browser.get(PATH).status_code == 403
        assert browser.post(f"{PATH}/delete", json=body).status_code == 403


def test_without_a_key_where_keys_are_required(tmp_path: Path) -> None:
    with running(tmp_path, require_keys=True) as server, server.client() as client:
        assert client.get(PATH).status_code == 401


def test_where_privileges_count_deleting_takes_manage(place: Workplace) -> None:
    """The scope opens the door; what may be done behind it is granted."""
    state = place.state.model_copy(update={"enforce_access": True})
    curator, uri = Curator(state, Principal("key:other", "key")), str(place.docs / "d0.md")
    for plan in (True, False):
        with pytest.raises(DeniedError, match="lacks"):
            curator.delete(NAME, [uri], reason="x", plan=plan)
    with pytest.raises(DeniedError, match="lacks"):
        curator.restore(NAME, [uri])
    assert place.refresh().head.documents == 5
    with Registry(place.state) as registry:
        refused = [e.phase for e in registry.read_audit(Wanted()) if e.actor == "key:other"]
    assert sorted(refused) == ["denied", "denied", "intent", "intent"]

"""An index whose vectors lie on a server: the contract of a folder, and what becomes of it when the server goes."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis.stateful import run_state_machine_as_test
from tests.rag.ingest.test_ingest_machine import SOAK, IndexMachine, machine_settings, sync_log
from tests.support.embedder import DIMENSION, WordEmbedder
from tests.support.engines import EngineProcess, engine_server, guarded
from tests.support.indexes import NAME, Workplace, contents, stored
from tests.support.receiver import certificate
from tests.support.zygote import Zygote

from llmops.core.config import load_config
from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.rag.config import RagConfig, StoreConfig
from llmops.rag.index import places
from llmops.rag.index.places import drop_left, leave, place_of, reach
from llmops.rag.index.reader import Index
from llmops.rag.index.store import Place
from llmops.rag.ingest.refresh import Options
from llmops.rag.ingest.status import status
from llmops.rag.ingest.verify import repair, verify
from llmops.rag.manifest import Manifest

READING_S = places._READING_S
CHROMA_ALONE = pytest.mark.parametrize("shared_server", ["chroma"], indirect=True)
"""For what is one code for both engines and takes its seconds, and for what milvus-lite does not know."""


@pytest.fixture(scope="module", params=["chroma", "milvus"])
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    with engine_server(request.param, tmp_path_factory.mktemp("engines")) as server:
        yield server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away is given up, not one that is slow."""
    monkeypatch.setattr(places, "_READING_S", 60.0)


@pytest.fixture
def server(shared_server: EngineProcess):
    yield shared_server
    if not shared_server.runs:
        shared_server.start()


@pytest.fixture
def place(tmp_path: Path, server: EngineProcess) -> Workplace:
    place = Workplace.at(tmp_path)
    place.store = server.config()
    for n in range(8):
        place.write(f"d{n}.md", f"# Title {n}\n\n" + "\n\n".join(f"topic{n} paragraph{p} word " * 5 for p in range(5)))
    return place


@pytest.fixture
def zygote():
    process = Zygote()
    yield process
    process.close()


def is_whole(place: Workplace) -> bool:
    found = verify(place.config, place.state, Options(embedder=place.embedder))
    assert found.ok, found.problems
    return True


def kept_at(place: Workplace, generation: str) -> Place:
    manifest = Manifest.open(place.state, NAME)
    try:
        return place_of(manifest, generation)
    finally:
        manifest.close()


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_a_server_holds_what_a_folder_would(place, tmp_path):
    place.refresh()
    (place.docs / "d3.md").unlink()
    (place.docs / "d4.md").rename(place.docs / "renamed.md")
    place.write("d5.md", "# Title 5\n\nother words now")
    done = place.refresh()
    scratch = place.scratch(tmp_path / "scratch")
    scratch.store = StoreConfig()
    expected = scratch.refresh()
    assert contents(place.state, done.head.generation) == contents(scratch.state, expected.head.generation)
    assert is_whole(place)
    assert not (place.folder / "chroma").exists()
    before = len(place.embedder.texts)
    assert place.refresh().head == done.head
    assert len(place.embedder.texts) == before


def test_a_question_is_answered_by_the_server(place):
    generation = place.refresh().head.generation
    index, exact = Index.open(place.state, NAME, generation, exact_below=1), Index.open(place.state, NAME, generation)
    try:
        wait_for(lambda: index.reader()._store is not None)
        vector = place.embedder.embed_query("topic3 paragraph2")
        assert index.reader().dense(vector, 5).rows.tolist() == exact.reader().dense(vector, 5).rows.tolist()
        assert index.reader().store_queries == 1
    finally:
        index.close()
        exact.close()


def test_a_store_moves_with_its_configuration_and_leaves_nothing_behind(place, server):
    before = server.collections()
    place.refresh()
    first = server.collections() - before
    assert len(first) == 1
    embedded = len(place.embedder.texts)

    place.store = StoreConfig()
    in_folder = place.refresh()
    assert server.collections() == before
    assert len(stored(place.state, in_folder.head.generation)) == in_folder.chunks

    place.store = server.config(patience_s=1)
    place.refresh()
    assert not (place.folder / "chroma" / in_folder.head.generation).exists()
    assert is_whole(place)
    moved = server.collections() - before
    place.store = server.config(patience_s=2)  # another patience is no other place
    place.refresh()
    assert server.collections() - before == moved
    assert len(place.embedder.texts) == embedded


@CHROMA_ALONE
def test_a_refresh_without_its_server_fails_clearly_and_the_next_one_goes_on(place, server):
    first = place.refresh()
    place.write("new.md", "# New\n\nfresh words")
    server.kill()
    with pytest.raises(UnavailableError, match="the vector store does not answer"):
        place.refresh()
    found = status(place.state, NAME).generations[0]
    assert found.head == first.head
    assert found.store_problem is not None
    assert server.url in found.store
    server.start()
    embedded = len(place.embedder.texts)
    assert place.refresh().added == 1
    assert len(place.embedder.texts) - embedded <= 1
    assert is_whole(place)


def test_a_server_that_restarts_in_a_refresh_only_costs_time(place, server):
    place.refresh()
    place.store = server.config(patience_s=120)
    restart = threading.Thread(target=server.start)

    class Killing(WordEmbedder):
        """Kills the server between the stages, when the store is already open."""

        def embed(self, texts, on_batch=None):
            if restart.ident is None:
                server.kill()
                restart.start()
            return super().embed(texts, on_batch)

    place.embedder = Killing()
    place.write("new.md", "# New\n\nfresh words")
    assert place.refresh().added == 1
    restart.join()
    assert is_whole(place)


@pytest.mark.kill
@CHROMA_ALONE
def test_a_killed_refresh_is_finished_by_the_next_and_leaves_no_collection(place, server, zygote):
    before = server.collections()
    job = {"config": place.config.model_dump(mode="json"), "state": str(place.state.dir), "embedder": "words-1"}
    reached = set()
    for kill_at in (5, 12, 16, 20, 26, 34):
        reached.add(zygote.run(**job, kill_at=kill_at)["status"])
        place.write(f"k{kill_at}.md", f"# K\n\nkill{kill_at} words")
        (place.docs / "d1.md").write_text(f"# One\n\nedited {kill_at}", encoding="utf-8")
    assert -9 in reached
    place.refresh()
    assert is_whole(place)
    assert len(server.collections() - before) == 1


def test_what_a_server_lost_is_written_anew_from_the_cache(place):
    done = place.refresh()
    embedded = len(place.embedder.texts)
    kept_at(place, done.head.generation).drop()
    again = place.refresh()
    assert (again.rebuilt, again.head) == (done.chunks, done.head)
    assert is_whole(place)

    chunk = next(iter(stored(place.state, done.head.generation)))
    store = kept_at(place, done.head.generation).open('{"count": null}')
    store.add([chunk], np.eye(1, DIMENSION, dtype=np.float32))
    store.close()
    found = verify(place.config, place.state, Options(embedder=place.embedder))
    assert [problem.what for problem in found.problems] == ["1 chunks with another vector"]
    assert repair(place.config, place.state, Options(embedder=place.embedder)).ok
    assert len(place.embedder.texts) == embedded


def test_answers_go_on_while_the_server_is_away_and_ask_it_again_when_it_is_back(place, server, caplog):
    generation = place.refresh().head.generation
    index = Index.open(place.state, NAME, generation, exact_below=1)
    vector = place.embedder.embed_query("topic3 paragraph2")
    try:
        wait_for(lambda: index.reader()._store is not None)
        best = index.reader().dense(vector, 5).rows.tolist()
        server.kill()
        assert index.reader().dense(vector, 5).rows.tolist() == best
        assert index.reader().exact_scans == 1
        assert "does not answer" in caplog.text
        server.start()
        wait_for(lambda: index.reader()._store is not None)
        assert index.reader().dense(vector, 5).rows.tolist() == best
        assert index.reader().store_queries == 2

        if server.engine == "milvus":
            return
    finally:
        index.close()


@CHROMA_ALONE
def test_a_server_that_falls_silent_is_given_up(place, server, monkeypatch):
    place.refresh()
    monkeypatch.setattr(places, "_READING_S", READING_S)
    index = Index.open(place.state, NAME, None, exact_below=1)
    vector = place.embedder.embed_query("topic3 paragraph2")
    try:
        wait_for(lambda: index.reader()._store is not None)
        server.freeze()  # until it is thawed: whoever waited for it would wait for ever
        assert index.reader().dense(vector, 5).rows.size == 5
        assert (index.reader().store_queries, index.reader().exact_scans) == (0, 1)
        server.thaw()
        wait_for(lambda: index.reader()._store is not None)
    finally:
        server.thaw()
        index.close()


def test_the_store_of_a_deleted_generation_is_dropped_even_if_its_server_is_away(place, server):
    before = server.collections()
    generation = place.refresh().head.generation
    manifest = Manifest.open(place.state, NAME)
    try:
        with manifest.transaction():
            leave(manifest, generation)
        if server.engine == "chroma":
            server.kill()
            drop_left(manifest)
            server.start()
        assert len(server.collections() - before) == 1
        drop_left(manifest)
        assert server.collections() == before
    finally:
        manifest.close()


@pytest.mark.kill
@pytest.mark.timeout(3600 if SOAK else 300)
def test_on_a_server_too_an_index_equals_a_scratch_build_whatever_happened(server, zygote, caplog):
    class ServerMachine(IndexMachine):
        store = server.config()

    ServerMachine.zygote = zygote
    sync_log.disabled = True
    try:
        _one_story(ServerMachine())
        if SOAK:
            run_state_machine_as_test(ServerMachine, settings=machine_settings(100, 30))
    finally:
        sync_log.disabled = False


def _one_story(machine: IndexMachine) -> None:
    """Each rule of the machine once; which of them comes when is left to chance in the soak only."""
    machine.begin()
    try:
        machine.write("a.md", "# Budget\n\nriver committee")
        machine.write_some_time_ago("sub/b.txt", "alpha beta\n\npage", 60)
        machine.refresh(full=False)
        machine.change_labels(("hr",), "red")
        (machine.place.docs / "sub/b.txt").rename(machine.place.docs / "with space.md")
        machine.killed_at_a_step(24)
        machine.write_broken("broken.pdf")
        machine.refresh(full=False)
        machine.change_embedder("words-2")
        machine.change_chunker(120)
        (machine.place.docs / "a.md").unlink()
        machine.refresh(full=True)
    finally:
        machine.teardown()


@CHROMA_ALONE
def test_tenants_and_databases_are_apart_and_a_missing_one_is_said(place, server):
    place.store = server.config(database="nowhere")
    with pytest.raises(NotFoundError, match="no such database"):
        place.refresh()
    root = f"{server.url}/api/v2/tenants"
    assert httpx.post(root, json={"name": "acme"}, timeout=60).is_success
    assert httpx.post(f"{root}/acme/databases", json={"name": "docs"}, timeout=60).is_success
    before = server.collections()
    place.store = server.config(tenant="acme", database="docs")
    place.refresh()
    assert is_whole(place)
    assert len(httpx.get(f"{root}/acme/databases/docs/collections", timeout=60).json()) == 1
    assert server.collections() == before
    place.store = server.config(token="env:NO_SUCH_TOKEN")
    with pytest.raises(ConfigError, match="NO_SUCH_TOKEN"):
        place.refresh()


@CHROMA_ALONE
def test_a_server_behind_tls_and_a_token(place, server, tmp_path, monkeypatch):
    made, before = certificate(tmp_path), server.collections()
    monkeypatch.setenv("CHROMA_TOKEN", "t0p-secret-0815")
    monkeypatch.setenv("CHROMA_TEAM", "blue")
    with guarded(server, made, "t0p-secret-0815") as url:
        about = {"url": url, "token": "env:CHROMA_TOKEN", "headers": {"x-team": "env:CHROMA_TEAM"}}
        place.store = server.config(**about)
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            place.refresh()
        place.store = server.config(**about, ca_file=str(made))
        assert place.refresh().added == 8
        assert is_whole(place)
        assert len(server.collections() - before) == 1
        assert url in reach(place.store)
        monkeypatch.setenv("CHROMA_TOKEN", "another-secret")
        with pytest.raises(ConfigError, match="refuses these credentials") as refused:
            reach(place.store)
        assert "another-secret" not in str(refused.value)
    kept = b"".join(path.read_bytes() for path in place.state.dir.rglob("*") if path.is_file())
    assert b"env:CHROMA_TOKEN" in kept
    assert b"t0p-secret" not in kept


def test_the_documented_engines_load_and_the_server_of_the_page_works(place, server, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/ingest.md").read_text()
    section = page.partition("## Where are the vectors kept?")[2].partition("\n## ")[0]
    found = {}
    for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL):
        path = tmp_path / "rag.yaml"
        path.write_text(block)
        store = load_config(RagConfig, path).value.index.store
        found[store.engine] = store
    assert set(found) == {"chroma", "milvus"}
    monkeypatch.setenv("CHROMA_TOKEN", "of-no-use-here")
    monkeypatch.setenv("MILVUS_TOKEN", "of-no:use-here")
    place.store = found[server.engine].model_copy(update={"url": server.url, "database": None, "ca_file": None})
    assert place.refresh().added == 8
    assert server.url in status(place.state, NAME).generations[0].store


def test_a_store_is_configured_without_secrets_and_contradictions():
    for wrong in (
        {"url": "http://user:secret@host:8000"},
        {"url": "host:8000"},
        {"token": "env:TOKEN"},
        {"engine": "milvus"},
        {"engine": "milvus", "url": "http://h:1", "headers": {"a": "env:B"}},
        {"url": "http://h:1", "token": "written out"},
    ):
        with pytest.raises(ValueError) as refused:
            StoreConfig.model_validate(wrong)
        assert "secret@" not in str(refused.value.errors(include_input=False))

"""Adds, edits, renames, deletions, settings, real kills, in any order: each refresh ends equal to a scratch build."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.support.embedder import WordEmbedder
from tests.support.indexes import Workplace, contents
from tests.support.zygote import Zygote

from llmops.rag.config import StoreConfig
from llmops.rag.index.sync import _log as sync_log
from llmops.rag.ingest.refresh import Options
from llmops.rag.ingest.verify import verify

SOAK = os.environ.get("LLMOPS_SOAK") == "1"

WORDS = ["budget", "river", "committee", "alpha", "beta", "page", "council", "bridge", "stone", "water", "the", "of"]
paragraphs = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)
texts = st.lists(st.one_of(paragraphs, paragraphs.map(lambda p: f"# {p[:30]}")), min_size=0, max_size=6).map(
    "\n\n".join
)
names = st.sampled_from(
    ["a.md", "b.md", "sub/a.md", "sub/b.txt", "sub/deep/a.md", "übergröße.md", "文档/一.md", "with space.md", "c.html"]
)


@pytest.fixture(scope="module")
def zygote():
    process = Zygote()
    yield process
    process.close()


class IndexMachine(RuleBasedStateMachine):
    zygote: Zygote
    store = StoreConfig()
    place_at = staticmethod(Workplace.at)

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llmops-machine-"))
        self.place = self.place_at(self.folder)
        self.place.store = self.store
        self.embedded: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def files(self) -> list[Path]:
        return sorted(path for path in self.place.docs.rglob("*") if path.is_file())

    @rule(name=names, text=texts)
    def write(self, name: str, text: str) -> None:
        self.place.write(name, text)

    @rule(name=names, text=texts, age=st.integers(3, 1000))
    def write_some_time_ago(self, name: str, text: str, age: int) -> None:
        """Past the span in which a file is read again for its age alone."""
        path = self.place.write(name, text)
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))

    @precondition(lambda self: self.files())
    @rule(data=st.data(), addition=paragraphs)
    def edit(self, data: st.DataObject, addition: str) -> None:
        path = data.draw(st.sampled_from(self.files()))
        path.write_bytes(path.read_bytes() + b"\n\n" + addition.encode())

    @precondition(lambda self: self.files())
    @rule(data=st.data(), name=names)
    def rename(self, data: st.DataObject, name: str) -> None:
        path = data.draw(st.sampled_from(self.files()))
        target = self.place.docs / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)

    @precondition(lambda self: self.files())
    @rule(data=st.data(), name=names)
    def copy(self, data: st.DataObject, name: str) -> None:
        path = data.draw(st.sampled_from(self.files()))
        target = self.place.docs / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())

    @precondition(lambda self: self.files())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.files())).unlink()

    @precondition(lambda self: self.files())
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.files())).touch()

    @rule(name=st.sampled_from(["broken.pdf", "a.md"]))
    def write_broken(self, name: str) -> None:
        self.place.write(name, "").write_bytes(b"%PDF-1.7 \x00\x01 not one")

    @rule(chars=st.sampled_from([120, 200, 300]))
    def change_chunker(self, chars: int) -> None:
        self.place.chunk_chars = chars

    @rule(fingerprint=st.sampled_from(["words-1", "words-2"]))
    def change_embedder(self, fingerprint: str) -> None:
        self.place.embedder = WordEmbedder(fingerprint)

    @rule(acl=st.sampled_from([("everyone",), ("hr",), ("finance", "hr")]), team=st.sampled_from([None, "red", "blue"]))
    def change_labels(self, acl: tuple[str, ...], team: str | None) -> None:
        self.place.acl = acl
        self.place.metadata = {} if team is None else {"team": team}

    @precondition(lambda self: self.place.folder.exists())
    @rule()
    def lose_store(self) -> None:
        shutil.rmtree(self.place.folder / "chroma", ignore_errors=True)

    @rule(kill_at=st.integers(1, 70))
    def killed_at_a_step(self, kill_at: int) -> None:
        self.run_killed(kill_at=kill_at)

    @rule(after_s=st.floats(0.005, 0.3))
    def killed_at_a_time(self, after_s: float) -> None:
        self.run_killed(kill_after_s=after_s)

    def run_killed(self, **how: float) -> None:
        done = self.zygote.run(**self.place.job, **how)
        assert done["status"] in (0, -signal.SIGKILL), done

    @rule(full=st.booleans())
    def refresh(self, full: bool) -> None:
        place = self.place
        done = place.refresh(full=full)
        scratch = place.scratch(self.folder / "scratch")
        scratch.store = StoreConfig()
        expected = scratch.refresh()
        try:
            assert contents(place.state, done.head.generation) == contents(scratch.state, expected.head.generation)
            assert {q.uri for q in done.quarantined} == {q.uri for q in expected.quarantined}
            found = verify(place.config, place.state, Options(embedder=place.embedder))
            assert found.ok, found.problems
        finally:
            shutil.rmtree(scratch.state.dir)
        before = len(place.embedder.texts)
        again = place.refresh()
        assert again.head == done.head
        assert len(place.embedder.texts) == before


def machine_settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.mark.kill
@pytest.mark.timeout(3600 if SOAK else 300)
def test_index_equals_a_scratch_build_whatever_happened(zygote, caplog):
    IndexMachine.zygote = zygote
    sync_log.disabled = True
    try:
        run_state_machine_as_test(IndexMachine, settings=machine_settings(300 if SOAK else 8, 30 if SOAK else 14))
    finally:
        sync_log.disabled = False

"""What a refresh remembers while it looks: the same for few and for many documents, and all that it needs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.indexes import NAME, Workplace

from llmops.core.files import sha256_of
from llmops.rag.config import FolderSource
from llmops.rag.database import SqliteFile
from llmops.rag.forget import forget, request_of
from llmops.rag.ingest import look as look_module
from llmops.rag.ingest import plan as plan_module
from llmops.rag.ingest.documents import delete
from llmops.rag.ingest.forecast import forecast
from llmops.rag.ingest.look import look, side_by_side
from llmops.rag.ingest.refresh import Options

FEW, MANY = 150, 1500


def filled(folder: Path, count: int) -> Workplace:
    """So many documents, 100 s old, in one folder."""
    place = Workplace.at(folder)
    for number in range(count):
        path = place.write(f"d{number}.md", f"text {number}")
        os.utime(path, (path.stat().st_mtime - 100,) * 2)
    return place


def peak(step: Callable[[], object]) -> int:
    """Bytes that Python held at most, beyond what it held before."""
    gc.collect()
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_the_documents_take_no_more_memory(tmp_path: Path) -> None:
    few, many = filled(tmp_path / "few", FEW), filled(tmp_path / "many", MANY)
    for place in (few, many):
        place.refresh()
    few.refresh()  # whatever is imported or cached once
    assert many.refresh().unchanged == MANY
    unchanged = peak(few.refresh), peak(many.refresh)
    assert unchanged[1] < 1.2 * unchanged[0]


sorted_rows = st.lists(st.text("ab/.é", min_size=1, max_size=4), unique=True).map(
    lambda names: [(name,) for name in sorted(names)]
)


@given(sorted_rows, sorted_rows)
def test_side_by_side_pairs_what_begins_alike(left: list[tuple[str]], right: list[tuple[str]]) -> None:
    pairs = list(side_by_side(left, right))
    assert [one for one, _ in pairs if one is not None] == left
    assert [two for _, two in pairs if two is not None] == right
    assert {one for one, two in pairs if two is not None and one is not None} == set(left) & set(right)
    assert all(one == two for one, two in pairs if one is not None and two is not None)


@given(st.lists(st.text(min_size=1, max_size=6).filter(lambda name: name.isprintable()), unique=True))
def test_the_database_tells_names_in_the_order_in_which_they_are_compared(names: list[str]) -> None:
    scratch = SqliteFile.temporary("CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID")
    try:
        scratch.executemany("INSERT INTO names VALUES (?)", [(name,) for name in names])
        assert [row[0] for row in scratch.stream("SELECT name FROM names ORDER BY name")] == sorted(names)
    finally:
        scratch.close()


@pytest.mark.parametrize("turn", [1, -1])
def test_two_sources_of_one_document_narrow_who_may_read_it(tmp_path: Path, turn: int) -> None:
    place = Workplace.at(tmp_path)
    place.write("hr/pay.md", "wages")
    place.write("open.md", "hours")
    wide = FolderSource(path=str(place.docs), acl=("staff", "hr"), metadata={"of": "all", "year": 1})
    narrow = FolderSource(path=str(place.docs / "hr"), acl=("hr", "board"), metadata={"of": "hr"})
    with look((wide, narrow)[::turn], place.state) as found:
        items = {Path(one.uri).name: one.item() for one in found.documents()}
    assert (items["pay.md"].acl, items["open.md"].acl) == (("hr",), ("hr", "staff"))
    assert items["pay.md"].metadata == {"of": "hr" if turn == 1 else "all", "year": 1}


def test_what_was_judged_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = filled(tmp_path, 12)  # d0 to d9 have one size
    place.refresh()
    place.refresh()
    delete(place.state, NAME, [str(place.docs / "d3.md")], actor="ann", reason="wrong")
    forget(place.state, request_of([str(place.docs / "d4.md")], None))
    read: list[str] = []

    def counted(root: str, inside: str) -> str | None:
        read.append(inside)
        return sha256_of(root, inside)

    for module in (look_module, plan_module):
        monkeypatch.setattr(module, "sha256_of", counted)
    assert (place.refresh().unchanged, read) == (10, [])
    copy = place.write("copy.md", "text 3")
    assert [(one.uri, one.code) for one in place.refresh().quarantined] == [(str(copy), "deleted")]
    assert set(read) == {"copy.md"}


def test_each_of_two_moved_copies_has_a_former_name_of_its_own(tmp_path: Path) -> None:
    place = filled(tmp_path, 3)
    for name in ("d0.md", "d1.md"):
        place.write(name, "the very same")
    place.refresh()
    for name in ("d0.md", "d1.md"):
        (place.docs / name).rename(place.docs / f"new-{name}")
    place.write("third.md", "the very same")
    planned = forecast(place.config, place.state, Options(embedder=place.embedder))
    former = [str(place.docs / name) for name in ("d0.md", "d1.md")]
    assert sorted(planned.renamed.values()) == former
    assert planned.removed == ()
    done = place.refresh()
    assert (done.renamed, done.added, done.removed, done.embedded) == (2, 1, 0, 0)


def test_a_document_that_has_come_to_be_unreadable_leaves_the_index(tmp_path: Path) -> None:
    place = filled(tmp_path, 3)
    place.refresh()
    (place.docs / "d1.md").write_bytes(b"\x00\x01\x02" * 50)
    done = place.refresh()
    assert (done.removed, done.changed, done.unchanged, done.head.documents) == (1, 0, 2, 2)
    assert [one.uri for one in done.quarantined] == [str(place.docs / "d1.md")]


_LOOK = """
import resource, signal, sys
from pathlib import Path
from llmops.core.errors import StorageError
from llmops.core.state import StateConfig
from llmops.rag import database
from llmops.rag.config import FolderSource
from llmops.rag.ingest.look import look
database._SCRATCH_KB = 64
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    look((FolderSource(path=sys.argv[1]),) * 2, StateConfig(dir=Path(sys.argv[2])))
except StorageError as error:
    print(error.where)
"""


def test_a_full_disk_of_temporary_files_is_told_and_nothing_stays_there(tmp_path: Path) -> None:
    docs, room = tmp_path / "docs", tmp_path / "room"
    for number in range(400):
        path = docs / ("long" * 50) / ("name" * 50) / ("deep" * 50) / f"{number}-{'x' * 200}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    room.mkdir()
    command = [sys.executable, "-c", _LOOK, str(docs), str(tmp_path / "state")]
    done = subprocess.run(
        command, env={**os.environ, "SQLITE_TMPDIR": str(room)}, capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.strip() == str(room)
    assert list(room.iterdir()) == []

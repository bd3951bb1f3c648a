"""A file or folder that becomes a link between the scan and the reading of it leads nobody anywhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.support.documents import docx
from tests.support.indexes import NAME, Workplace, contents
from tests.support.scans import after_the_scan

from llmops.core.files import open_beneath, sha256_of
from llmops.rag.config import FolderSource
from llmops.rag.document import Rejected
from llmops.rag.ingest import look as looking
from llmops.rag.ingest.documents import delete
from llmops.rag.sources import files, scan

SECRET = "the combination of the vault is nine nine two"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """Three open documents, and a vault outside of their folder that holds namesakes of them."""
    place = Workplace.at(tmp_path)
    place.write("a.md", "an open text")
    place.write("deep/er/b.md", "another open text")
    (place.docs / "c.docx").write_bytes(docx(headings={"Open": "a third open text"}))
    for folder in (tmp_path / "vault", tmp_path / "vault/er"):
        folder.mkdir()
        for name in ("a.md", "b.md"):
            (folder / name).write_text(SECRET)
        (folder / "c.docx").write_bytes(docx(headings={"Vault": SECRET}))
    return place


def swap(path: Path, target: str) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    path.symlink_to(target)


def texts(place: Workplace, generation: str) -> dict[str, str]:
    return {Path(uri).name: repr(held) for uri, held in contents(place.state, generation)["documents"].items()}


@pytest.mark.parametrize(
    ("swapped", "target", "refused"),
    [
        ("a.md", "../vault/a.md", "a.md"),
        ("a.md", "hr/pay.md", "a.md"),  # within the root, but for other readers
        ("deep/er", "../../vault", "deep/er/b.md"),
        ("deep", "../vault", "deep/er/b.md"),
        ("c.docx", "../vault/c.docx", "c.docx"),  # read by a parser process
    ],
)
def test_what_became_a_link_since_the_scan_is_refused(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, swapped: str, target: str, refused: str
) -> None:
    place.write("hr/pay.md", "wages")
    after_the_scan(monkeypatch, lambda: swap(place.docs / swapped, target))
    done = place.refresh()
    assert [(one.uri, one.code) for one in done.quarantined] == [(str(place.docs / refused), "unreadable")]
    assert "a link was put in its place" in done.quarantined[0].reason
    assert set(texts(place, done.head.generation)) == {"a.md", "b.md", "c.docx", "pay.md"} - {Path(refused).name}
    assert SECRET not in repr(texts(place, done.head.generation))


def test_a_link_within_the_root_is_read_as_it_was_judged(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("..data/guide/d.md", "a mounted text")
    place.write("blobs/2f.bin", "a text whose link alone tells its type")
    (place.docs / "guide").symlink_to("..data/guide")
    (place.docs / "e.md").symlink_to(place.docs / "blobs/2f.bin")

    def act() -> None:
        for name in ("guide", "e.md"):
            swap(place.docs / name, "../vault")

    after_the_scan(monkeypatch, act)
    done = place.refresh()
    held = texts(place, done.head.generation)
    assert (done.quarantined, set(held)) == ((), {"a.md", "b.md", "c.docx", "d.md", "e.md"})
    assert "whose link alone" in held["e.md"]
    assert SECRET not in repr(held)


def test_a_folder_that_becomes_a_link_during_the_scan_is_not_listed(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:

    def swapping(root: str, inside: str, flags: int) -> int:
        if inside == "deep/":
            swap(place.docs / "deep", "../vault")
        return open_beneath(root, inside, flags)

    monkeypatch.setattr(files, "open_beneath", swapping)
    found = {one.uri.rpartition("docs/")[2]: one for one in scan(FolderSource(path=str(place.docs)))}
    assert set(found) == {"a.md", "c.docx", "deep"}
    refused = found["deep"]
    assert isinstance(refused, Rejected)
    assert refused.subtree


def test_no_link_is_hashed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link of the size and time of a document that was deleted by hand is not judged by what it leads to."""
    place.write("gone.md", SECRET)
    place.refresh()
    delete(place.state, NAME, [str(place.docs / "gone.md")], actor="ann", reason="wrong")
    place.write("new.md", "x" * len(SECRET))
    swapped = place.docs / "new.md"

    def swapping(root: str, inside: str) -> str | None:
        if inside == "new.md" and not swapped.is_symlink():
            swap(swapped, "../vault/a.md")
        return sha256_of(root, inside)

    monkeypatch.setattr(looking, "sha256_of", swapping)
    assert [(Path(one.uri).name, one.code) for one in place.refresh().quarantined] == [("new.md", "unreadable")]


def test_a_way_is_followed_to_its_end_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/a").write_bytes(b"a")
    (tmp_path / "root").symlink_to("real")
    (tmp_path / "real/link").symlink_to("deep")
    (tmp_path / "real/loop").symlink_to("loop")

    def opened(inside: str) -> bytes:
        with open(open_beneath(str(tmp_path / "root"), inside, os.O_RDONLY), "rb") as file:  # noqa: PTH123
            return file.read()

    before = len(os.listdir("/proc/self/fd"))
    assert opened("deep/a") == b"a"
    for refused in ("link/a", "loop", "deep/a/b", "none", "../real/deep/a", "deep/../deep/a"):
        with pytest.raises(OSError):
            opened(refused)
    assert len(os.listdir("/proc/self/fd")) == before

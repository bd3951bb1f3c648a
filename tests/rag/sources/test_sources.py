"""What a scan lists, and what it must never mistake: a missing root, a loop, a hidden file, a namesake elsewhere."""

from __future__ import annotations

import os
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.core.errors import NotFoundError
from llmops.rag.config import FolderSource
from llmops.rag.document import Place, Rejected, SourceItem
from llmops.rag.sources import scan


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return root


def uris(root: Path, path: str = "docs", **config: Any) -> list[str]:
    return sorted(found.uri for found in scan(FolderSource(path=path, **config), root))


def codes(root: Path, path: str = "docs", **config: Any) -> dict[str, str]:
    found = scan(FolderSource(path=path, **config), root)
    return {one.uri: one.code if isinstance(one, Rejected) else "ok" for one in found}


def test_a_folder_gives_its_documents_with_what_a_refresh_needs(tmp_path: Path) -> None:
    tree(tmp_path, "docs/b.md", "docs/a/z.txt", "docs/a.pdf", "docs/picture.png", "docs/Makefile", "other/c.md")
    source = FolderSource(path="docs", acl=("staff",), metadata={"team": "ops"})
    found = sorted(scan(source, tmp_path), key=lambda one: one.uri)
    assert [one.uri for one in found] == ["docs/a.pdf", "docs/a/z.txt", "docs/b.md"]
    first = found[1]
    status = (tmp_path / "docs/a/z.txt").stat()
    place = Place(str(tmp_path / "docs"), "a/z.txt")
    assert first == SourceItem(
        *("docs/a/z.txt", str(tmp_path / "docs/a/z.txt"), place, status.st_size, status.st_mtime_ns),
        *(("staff",), {"team": "ops"}),
    )


def test_the_same_names_in_other_folders_are_other_documents(tmp_path: Path) -> None:
    tree(tmp_path, "docs/a/README.md", "docs/b/README.md", "docs/README.md")
    assert uris(tmp_path) == ["docs/README.md", "docs/a/README.md", "docs/b/README.md"]


@pytest.mark.parametrize(
    "name", ["Übersicht.md", unicodedata.normalize("NFD", "Übersicht.md"), "日本語 概要.md", "🙂 a'b\"c.md"]
)
def test_names_are_kept_as_they_are_on_disk(tmp_path: Path, name: str) -> None:
    tree(tmp_path, f"docs/{name}")
    (found,) = scan(FolderSource(path="docs"), tmp_path)
    assert isinstance(found, SourceItem)
    assert found.uri == f"docs/{name}"
    assert Path(found.path).read_text() == f"text of docs/{name}"


def test_a_name_that_no_text_can_hold_is_reported(tmp_path: Path) -> None:
    tree(tmp_path, "docs/a.md")
    (tmp_path / "docs" / os.fsdecode(b"caf\xe9.md")).write_text("x")
    assert codes(tmp_path) == {"docs/a.md": "ok", "docs/caf\\udce9.md": "bad_name"}


def test_hidden_version_control_and_lock_files_are_no_documents(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "docs/.git/a.md",
        "docs/.hidden.md",
        "docs/CVS/a.md",
        "docs/~$open.docx",
        "docs/.llmops/a.md",
        "docs/a.md",
    )
    assert uris(tmp_path) == ["docs/a.md"]


def test_a_hidden_root_that_is_named_is_meant(tmp_path: Path) -> None:
    tree(tmp_path, ".notes/a.md", ".single.md")
    assert uris(tmp_path, ".notes") == [".notes/a.md"]
    assert uris(tmp_path, ".single.md") == [".single.md"]


def test_a_missing_root_is_an_error_at_once(tmp_path: Path) -> None:
    for path in ("docs", "docs/a.md", "docs/*.md", "docs/**/*.md"):
        with pytest.raises(NotFoundError, match="not there"):
            scan(FolderSource(path=path), tmp_path)


def test_a_dangling_root_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to("nowhere")
    with pytest.raises(NotFoundError, match="cannot be read"):
        scan(FolderSource(path="docs"), tmp_path)


def test_links(tmp_path: Path) -> None:
    docs = tree(tmp_path, "docs/real/a.md", "secret/b.md") / "docs"
    (docs / "alias.md").symlink_to("real/a.md")
    (docs / "again").symlink_to("real")
    (docs / "real/up").symlink_to("..")
    (docs / "self.md").symlink_to("self.md")
    (docs / "gone.md").symlink_to("missing.md")
    (docs / "out.md").symlink_to("../secret/b.md")
    (docs / "outside").symlink_to("../secret")
    (docs / "gone.png").symlink_to("missing.png")
    assert codes(tmp_path) == {
        "docs/alias.md": "ok",
        "docs/gone.md": "unreadable",
        "docs/out.md": "outside_root",
        "docs/outside": "outside_root",
        "docs/real/a.md": "ok",
        "docs/real/up": "symlink_loop",
        "docs/self.md": "symlink_loop",
    }


def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    docs = tree(tmp_path, "docs/a/x.md", "docs/b/y.md") / "docs"
    (docs / "a/to_b").symlink_to("../b")
    (docs / "b/to_a").symlink_to("../a")
    assert uris(tmp_path) == ["docs/a/x.md", "docs/b/y.md"]


def test_a_mounted_volume_of_links_into_a_hidden_folder_is_read(tmp_path: Path) -> None:
    docs = tree(tmp_path, "docs/..2026_01/guide/a.md", "docs/..2026_01/b.md") / "docs"
    (docs / "..data").symlink_to("..2026_01")
    (docs / "guide").symlink_to("..data/guide")
    (docs / "b.md").symlink_to("..data/b.md")
    assert codes(tmp_path) == {"docs/b.md": "ok", "docs/guide/a.md": "ok"}


def test_a_link_as_root_is_followed(tmp_path: Path) -> None:
    tree(tmp_path, "real/a.md")
    (tmp_path / "docs").symlink_to("real")
    assert uris(tmp_path) == ["docs/a.md"]


def test_what_is_no_file_is_reported_where_a_document_was_expected(tmp_path: Path) -> None:
    tree(tmp_path, "docs/a.md")
    os.mkfifo(tmp_path / "docs/pipe.md")
    os.mkfifo(tmp_path / "docs/pipe.sock")
    assert codes(tmp_path) == {"docs/a.md": "ok", "docs/pipe.md": "unreadable"}


def test_a_folder_without_permission_is_unknown_not_deleted() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        tree(root, "docs/open/a.md", "docs/shut/b.md")
        (root / "docs/shut").chmod(0)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                os.write(writer, repr(list(scan(FolderSource(path="docs"), root))).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            said = answer.read()
        os.waitpid(pid, 0)
        (root / "docs/shut").chmod(0o755)
    assert "uri='docs/open/a.md'" in said
    assert "Rejected(uri='docs/shut'" in said
    assert "subtree=True" in said


def test_include_and_exclude(tmp_path: Path) -> None:
    tree(tmp_path, "docs/a.md", "docs/drafts/b.md", "docs/sub/drafts/c.md", "docs/sub/d.log", "docs/sub/e.md")
    assert uris(tmp_path, exclude=("drafts/",)) == ["docs/a.md", "docs/sub/e.md"]
    assert uris(tmp_path, include=("*.log",)) == ["docs/sub/d.log"]
    assert uris(tmp_path, include=("sub/*.md", "a.*")) == ["docs/a.md", "docs/sub/e.md"]
    assert uris(tmp_path, exclude=("/drafts/**", "**/c.md")) == ["docs/a.md", "docs/sub/e.md"]


def test_globs(tmp_path: Path) -> None:
    tree(tmp_path, "docs/a.md", "docs/b.rst", "docs/x/c.md", "docs/x/y/d.md", "docs/.hidden/e.md")
    assert uris(tmp_path, "docs/*.md") == ["docs/a.md"]
    assert uris(tmp_path, "docs/**/*.md") == ["docs/a.md", "docs/x/c.md", "docs/x/y/d.md"]
    assert uris(tmp_path, "docs/*/[cd].md") == ["docs/x/c.md"]
    assert uris(tmp_path, "*/a.m?") == ["docs/a.md"]
    assert uris(tmp_path, str(tmp_path / "docs/**")) == ["docs/a.md", "docs/b.rst", "docs/x/c.md", "docs/x/y/d.md"]


def test_a_file_that_only_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    tree(tmp_path, "docs/[draft].md", "docs/d.md")
    assert uris(tmp_path, "docs/[draft].md") == ["docs/[draft].md"]


def test_documents_outside_the_working_folder_have_their_absolute_path(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/a.md", "work/b.md")
    assert uris(tmp_path / "work", "../elsewhere") == [str(tmp_path / "elsewhere/a.md")]
    assert uris(tmp_path / "work", ".") == ["b.md"]


def test_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    names = [f"docs/{letter}{number}.md" for letter in "zab" for number in (10, 9, 1)]
    tree(tmp_path, *names)
    assert uris(tmp_path) == sorted(names)


def test_a_link_opens_no_document_to_more_readers(tmp_path: Path) -> None:
    docs = tree(tmp_path, "docs/hr/pay.md", "docs/public/a.md", "docs/staff/b.md") / "docs"
    (docs / "public/pay.md").symlink_to("../hr/pay.md")
    (docs / "staff/pay.md").symlink_to("../hr/pay.md")
    (docs / "hr/a.md").symlink_to("../public/a.md")
    (docs / "acl.yaml").write_text('- {path: "hr/**", groups: [hr]}\n- {path: "staff/**", groups: [staff]}\n')
    found = scan(FolderSource(path="docs", acl_file="acl.yaml"), tmp_path)
    assert {one.uri: one.acl for one in found if isinstance(one, SourceItem)} == {
        "docs/hr/a.md": ("hr",),
        "docs/hr/pay.md": ("hr",),
        "docs/public/a.md": ("everyone",),
        "docs/public/pay.md": ("hr",),
        "docs/staff/b.md": ("staff",),
        "docs/staff/pay.md": (),
    }


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A folder with 1,500 others within each other, which Python itself could not take away again."""
    docs = tree(tmp_path, "docs/a.md", "docs/z.md") / "docs"
    inner = os.open(docs, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=inner)
        outer, inner = inner, os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    yield tmp_path
    subprocess.run(["rm", "-rf", str(docs / "d")], check=True)


def test_folders_without_an_end_cost_only_themselves(endless: Path) -> None:
    found = list(scan(FolderSource(path="docs"), endless))
    assert sorted(one.uri for one in found if isinstance(one, SourceItem)) == ["docs/a.md", "docs/z.md"]
    (refused,) = [one for one in found if isinstance(one, Rejected)]
    assert refused.subtree
    assert refused.code == "unreadable"

"""An artefact's files are compared with the record to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.core.errors import IntegrityError
from llmops.registry.digest import Manifest, manifest, require


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "artefact"
    (root / "code").mkdir(parents=True)
    (root / "MLmodel").write_text("flavors: {}\n")
    (root / "code" / "model.py").write_text("x = 1\n")
    return root


def test_the_digest_covers_names_sizes_and_contents_in_one_order(folder: Path, tmp_path: Path) -> None:
    recorded = manifest(folder)
    assert [file.path for file in recorded.files] == ["MLmodel", "code/model.py"]
    (folder / "code" / "model.py").rename(folder / "code" / "moved.py")
    assert manifest(folder).digest != recorded.digest
    (folder / "code" / "moved.py").rename(folder / "code" / "model.py")
    assert manifest(folder) == recorded
    assert Manifest.from_rows(recorded.as_rows(), expected=recorded.digest, where="") == recorded


def test_compiled_python_is_no_part_of_an_artefact(folder: Path) -> None:
    recorded = manifest(folder)
    (folder / "code" / "__pycache__").mkdir()
    (folder / "code" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")
    (folder / "loose.pyc").write_bytes(b"x")
    require(folder, recorded, where="here")
    assert manifest(folder) == recorded  # the digest is the same on a machine that has run the code
    (folder / "loose.py").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"loose\.py"):  # the source beside it is part of it
        require(folder, recorded, where="here")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: (root / "code" / "model.py").write_text("x = 2\n"), "`code/model.py` was changed"),
        (lambda root: (root / "code" / "extra.py").write_text(""), "`code/extra.py` was added"),
        (lambda root: (root / "MLmodel").unlink(), "`MLmodel` is missing"),
    ],
)
def test_any_difference_is_refused_by_name(folder: Path, change: object, told: str) -> None:
    recorded = manifest(folder)
    change(folder)  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=told) as caught:
        require(folder, recorded, where="dev.docs.chat/1")
    assert caught.value.where == "dev.docs.chat/1"


def test_a_missing_folder_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(IntegrityError, match="is missing"):
        require(tmp_path / "gone", manifest(folder), where="")


@pytest.mark.parametrize("target", ["code", "MLmodel"])
def test_links_are_refused(folder: Path, target: str) -> None:
    (folder / "link").symlink_to(folder / target)
    with pytest.raises(IntegrityError, match="plain files only"):
        manifest(folder)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", ""])
def test_a_record_naming_a_path_outside_is_refused(path: str) -> None:
    rows: list[list[str | int]] = [[path, 1, "0" * 64]]
    forged = Manifest.from_rows
    from llmops.core.ids import digest

    with pytest.raises(IntegrityError):
        forged(rows, expected=digest(rows), where="")


def test_a_changed_record_is_refused(folder: Path) -> None:
    recorded = manifest(folder)
    rows = recorded.as_rows()
    rows[0][2] = "0" * 64
    with pytest.raises(IntegrityError, match="does not match its digest"):
        Manifest.from_rows(rows, expected=recorded.digest, where="")

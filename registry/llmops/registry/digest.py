"""The digest of an artefact's files: what is written down at registration, and compared before anything of it is run.

Knows bytes and paths only. `manifest` records every file; `require` refuses a folder that differs from the record.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmops.core.errors import IntegrityError
from llmops.core.ids import digest

_BLOCK = 1 << 20


@dataclass(frozen=True, order=True)
class FileDigest:
    """One file: its path within the folder (POSIX), size in bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Every file of an artefact, ordered by path. Its own digest covers names, sizes and contents."""

    files: tuple[FileDigest, ...]

    @property
    def digest(self) -> str:
        return digest(self.as_rows())

    def as_rows(self) -> list[list[str | int]]:
        """Plain JSON values, as they lie in SQL."""
        return [[file.path, file.size, file.sha256] for file in self.files]

    @classmethod
    def from_rows(cls, rows: list[list[str | int]], *, expected: str, where: str) -> Manifest:
        """Read a recorded manifest back.

        Raises:
            IntegrityError: the record itself does not have the digest it is filed under, or names a path outside.
        """
        found = cls(tuple(FileDigest(str(path), int(size), str(sha256)) for path, size, sha256 in rows))
        if found.digest != expected or any(_escapes(file.path) for file in found.files):
            raise IntegrityError("the recorded list of files does not match its digest", where=where)
        return found


def manifest(folder: Path) -> Manifest:
    """Digest every file below a folder; compiled Python is left out, for it is never loaded from an artefact.

    Raises:
        IntegrityError: a link or special file, whose bytes could change behind the record.
    """
    return Manifest(tuple(sorted(_digest_file(folder, path) for path in _files(folder))))


def manifest_of(folder: Path, files: Iterable[Path]) -> Manifest:
    """Digest some files of a folder by what is read from them, through links: a model hub's cache is made of links."""
    return Manifest(tuple(sorted(_digest_file(folder, path) for path in files)))


def require(folder: Path, recorded: Manifest, *, where: str) -> None:
    """Pass only a folder that holds exactly the recorded files.

    Raises:
        IntegrityError: names the first file that was changed, added or taken away.
    """
    found = {file.path: file for file in manifest(folder).files} if folder.is_dir() else {}
    wanted = {file.path: file for file in recorded.files}
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) == wanted.get(path):
            continue
        what = "was added" if path not in wanted else "is missing" if path not in found else "was changed"
        raise IntegrityError(
            f"the artefact is not what was registered: `{path}` {what}",
            where=where,
            hint="nothing of it was run; restore the artefact from a backup, or register and point to another version",
        )


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in [*names, *folders]:
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise IntegrityError("an artefact holds plain files only", where=str(path))
        yield from (Path(parent, name) for name in sorted(names) if not name.endswith(".pyc"))


def _digest_file(folder: Path, path: Path) -> FileDigest:
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
            size += len(block)
    return FileDigest(path.relative_to(folder).as_posix(), size, hashed.hexdigest())


def _escapes(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts or not pure.parts

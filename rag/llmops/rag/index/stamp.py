"""How the vector store's folder looked when it was last whole, told from file names, sizes and times alone.

Chroma's native code dies with a segmentation fault on a torn graph file, so the folder is compared with this stamp
before it is opened at all. Light: an unchanged refresh uses it without importing Chroma.
"""

from __future__ import annotations

import json
from pathlib import Path

DATABASE = "chroma.sqlite3"
_PERSISTED = "index_metadata.pickle"
_MAGIC = b"SQLite format 3\0"


def stamp(folder: Path) -> str:
    """The stamp of a folder as it is now.

    Opening a store touches its database, so there only the name counts. A graph too small to have been persisted has no
    metadata file yet; every load makes its (empty) files anew, so there only the sizes count.
    """
    files: dict[str, list[int]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(DATABASE):
            status = path.stat()
            persisted = (path.parent / _PERSISTED).exists()
            files[str(path.relative_to(folder))] = [status.st_size, status.st_mtime_ns if persisted else 0]
    return json.dumps(files)


def is_whole(folder: Path, recorded: str | None) -> bool:
    """Whether the folder is what was recorded, as far as can be told without opening it."""
    if recorded is None:
        return False
    try:
        with (folder / DATABASE).open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return False
        return stamp(folder) == recorded
    except OSError:
        return False

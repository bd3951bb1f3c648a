"""Where records go that fit no table: kept word for word, for a person to look at, and out of the others' way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from llmops.core.errors import StorageError
from llmops.core.files import sync_directory


@dataclass(frozen=True)
class DeadLetter:
    """One record that was set aside; `segment` and `offset` say where it lay in the spool."""

    segment: str
    offset: int
    table: str
    reason: str
    body: bytes


def set_aside(folder: Path, letters: Sequence[DeadLetter]) -> int:
    """Append the letters to one file a segment, durably, each once however often it is given.

    Tells how many were new. Raises StorageError.
    """
    try:
        return _set_aside(folder, letters)
    except OSError as error:
        raise StorageError(
            f"records that fit no table cannot be set aside: {error.strerror}",
            where=str(folder),
            hint="is the disk full?",
        ) from error


def _set_aside(folder: Path, letters: Sequence[DeadLetter]) -> int:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    by_segment: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        by_segment.setdefault(letter.segment, []).append(letter)
    written = 0
    for segment, ours in by_segment.items():
        path = folder / f"{segment}.jsonl"
        known = _offsets(path)
        lines = [_line(letter) for letter in ours if letter.offset not in known]
        with path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        written += len(lines)
    sync_directory(folder)
    return written


def _line(letter: DeadLetter) -> bytes:
    fields = {"segment": letter.segment, "offset": letter.offset, "table": letter.table, "reason": letter.reason}
    # A leading newline too: after a torn line, the next one still begins afresh.
    return b"\n" + orjson.dumps({**fields, "record": letter.body.decode(errors="replace")}) + b"\n"


def _offsets(path: Path) -> set[int]:
    if not path.exists():
        return set()
    offsets = set()
    for line in path.read_bytes().splitlines():
        try:
            offsets.add(orjson.loads(line)["offset"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue  # empty, or torn by a crash: its letter is given again
    return offsets

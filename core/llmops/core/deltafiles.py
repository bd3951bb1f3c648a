"""Makes Delta commits survive a power cut, which delta-rs leaves to chance: it calls no fsync.

Knows the files of a Delta table in a local folder (the Delta protocol's log: one JSON of actions a version), no rows.
Source: github.com/delta-io/delta, PROTOCOL.md, "Delta Log Entries".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import orjson

from llmops.core.files import sync_directory

_COMMIT = re.compile(r"(\d{20})\.json")
_PARQUET_END = b"PAR1"


def sync_commit(table: Path, version: int) -> None:
    """Make one version durable: its data files, its log entry, and the folders that name them."""
    entry = _entry(table, version)
    folders = {table}
    for path in added_files(table, version):
        sync_file(path)
        folders.add(path.parent)
    for folder in folders:
        sync_directory(folder)
    sync_file(entry)
    sync_directory(entry.parent)


def sync_new_table(table: Path, root: Path) -> None:
    """Make a table's first version durable, and every folder down to it from above `root`."""
    sync_commit(table, 0)
    folder = table
    while folder not in (root.parent, folder.parent):
        folder = folder.parent
        sync_directory(folder)


def sync_log(table: Path) -> None:
    """Make the whole log durable, checkpoints too; needed before anything older is cleaned up."""
    log = table / "_delta_log"
    for path in log.iterdir():
        if path.is_file():
            sync_file(path)
    sync_directory(log)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside_torn_commits(table: Path) -> list[int]:
    """Rename the newest log entries that a power cut left torn, so that the table opens again; gives their versions.

    Only a commit that was never acknowledged can be torn, since `sync_commit` comes before the acknowledgement. Call it
    while no other process writes the table.
    """
    log = table / "_delta_log"
    if not log.is_dir():
        return []
    versions = sorted(
        (int(match[1]) for path in log.iterdir() if (match := _COMMIT.fullmatch(path.name))), reverse=True
    )
    torn = []
    for version in versions:
        if _whole(table, version):
            break
        entry = _entry(table, version)
        entry.rename(entry.with_suffix(".torn"))
        torn.append(version)
    if torn:
        sync_directory(log)
    return torn


def added_files(table: Path, version: int) -> Iterator[Path]:
    """The data files that one version adds. Raises ValueError where the entry is torn."""
    for line in _entry(table, version).read_bytes().splitlines():
        action = orjson.loads(line)
        if "add" in action:
            yield table / unquote(action["add"]["path"])


def _entry(table: Path, version: int) -> Path:
    return table / "_delta_log" / f"{version:020}.json"


def _whole(table: Path, version: int) -> bool:
    """Whether the entry parses and its data files look complete: a Parquet file ends in its magic bytes."""
    try:
        if not _entry(table, version).read_bytes().strip():
            return False
        for path in added_files(table, version):
            with path.open("rb") as file:
                file.seek(-len(_PARQUET_END), os.SEEK_END)
                if file.read() != _PARQUET_END:
                    return False
    except (ValueError, OSError):
        return False
    return True

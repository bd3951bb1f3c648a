"""Turns what disks and SQLite say into errors a user can act on. Knows error numbers; knows no table and no file."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmops.core.errors import IntegrityError, LlmopsError, StorageError, UnavailableError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, *_FULL}
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_FULL_WORDS = ("disk is full", "no space left", "file too large", "disk i/o error", "quota exceeded")
_HINT = "free some space, then run again: the index as it was last committed is intact"


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Run a block that writes or reads `where`.

    Raises:
        StorageError: the disk is full, read-only or broken.
        IntegrityError: the file is not a database, or a damaged one.
        UnavailableError: another process kept the database locked for too long.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise sqlite_error(error, where) from error
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise StorageError(f"cannot write: {error.strerror}", where=str(error.filename or where), hint=_HINT) from error


def sqlite_error(error: sqlite3.Error, where: Path) -> LlmopsError:
    """The error to show in place of one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is the extended code
    if code in _FULL_CODES:
        return StorageError(f"the index cannot be written: {error}", where=str(where), hint=_HINT)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnavailableError("the index is locked by another process", where=str(where), hint="try again shortly")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        hint = f"restore it from a backup, or remove {where.parent} and run `llmops ingest` to build the index again"
        return IntegrityError(f"the index is damaged: {error}", where=str(where), hint=hint)
    return StorageError(f"the index refused: {error}", where=str(where))


def is_disk_full(message: str) -> bool:
    """Whether another library's error text speaks of a full disk (Chroma keeps no code)."""
    return any(words in message.lower() for words in _FULL_WORDS)

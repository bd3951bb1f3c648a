"""A disk that is full, read-only or not what a path says: the machine's matter, told as such, and no defect."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from llmops.core.errors import StorageError

_HINTS = {
    errno.ENOSPC: "free space on the disk, then run the same command again: what was done is kept",
    errno.EDQUOT: "your quota is used up: free space, then run the same command again: what was done is kept",
    errno.EROFS: "the file system is read-only: name another folder",
    errno.EACCES: "this account may not write there: name another folder, or ask for the right",
    errno.EPERM: "this account may not write there: name another folder, or ask for the right",
    errno.ENOTDIR: "a file stands where a folder is wanted: name another",
    errno.EEXIST: "a file stands where a folder is wanted: name another",
    errno.EISDIR: "a folder stands where a file is wanted: name another",
    errno.ENOENT: "there is no such place, or it cannot be made: correct the path",
    errno.EIO: "the disk failed: look at the system's log",
}
_FULL = "No space left on device"
"""What libraries say that do not raise OSError: safetensors, SQLite's callers."""


@contextmanager
def storage_faults() -> Iterator[None]:
    """
    Raises:
        StorageError: in place of the system's own error, where it is one of storage.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _HINTS or (error.filename is None and error.errno == errno.ENOENT):
            raise
        where = None if error.filename is None else str(error.filename)
        raise StorageError(f"the disk refused: {error.strerror}", where=where, hint=_HINTS[error.errno]) from error
    except Exception as error:
        if _FULL not in str(error) and "disk is full" not in str(error):
            raise
        raise StorageError(f"the disk refused: {_FULL}", hint=_HINTS[errno.ENOSPC]) from error

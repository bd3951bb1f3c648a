"""A file's bytes, whole and unchanged, or a clear refusal: never blocks on a pipe, never reads past the limit.

Knows bytes only; what they mean is for the parser of their type.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from hashlib import sha256

from llmops.core.files import open_beneath
from llmops.rag.document import Place, RefusedDocumentError

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BLOCK = 1 << 22
_SWAPPED = "a link was put in its place, or in that of its folder, after it was found"


@dataclass(frozen=True, slots=True)
class Content:
    data: bytes
    sha256: str


def read(place: Place, max_bytes: int) -> Content:
    """Read and hash a regular file; where it is written to meanwhile, once more.

    Raises:
        RefusedDocumentError: unreadable (also where a link was put in its way), too_large (nothing is read), empty,
            changed_while_reading.
    """
    for _ in range(2):
        data = _read_unchanged(place, max_bytes)
        if data is not None:
            return Content(data, sha256(data).hexdigest())
    raise RefusedDocumentError("changed_while_reading")


def _read_unchanged(place: Place, max_bytes: int) -> bytes | None:
    """The bytes, or None where the file changed between the first look and the last."""
    try:
        descriptor = open_beneath(place.root, place.inside, _FLAGS)
    except OSError as error:
        why = (
            _SWAPPED if error.errno in (errno.ELOOP, errno.ENOTDIR) else f"the file cannot be opened: {error.strerror}"
        )
        raise RefusedDocumentError("unreadable", why) from error
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise RefusedDocumentError("unreadable", "it is not a regular file")
        if before.st_size > max_bytes:
            raise RefusedDocumentError("too_large", f"{before.st_size:,} bytes; `max_bytes` is {max_bytes:,}")
        if before.st_size == 0:
            raise RefusedDocumentError("empty", "the file is empty")
        data = _read_exactly(descriptor, before.st_size)
        after = os.fstat(descriptor)
    except OSError as error:
        raise RefusedDocumentError("unreadable", f"the file cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    same = (
        len(data) == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
    )
    return data if same else None


def _read_exactly(descriptor: int, size: int) -> bytes:
    """Up to `size` bytes; fewer where the file has shrunk."""
    blocks = []
    left = size
    while left and (block := os.read(descriptor, min(left, _BLOCK))):
        blocks.append(block)
        left -= len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)

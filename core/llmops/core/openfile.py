"""A spool file being appended to, and the room that is made in it ahead of its records.

Room is a run of zeros, written at one go and mapped into memory: an append is a copy then, without a system call. With
its share of making the room 2.5 kB cost 1.4 us, and as a write(2) of their own 2.5; where many records come at once,
one write(2) costs each 0.8, and no room is made for them. The kernel keeps the pages whatever becomes of the process,
as it keeps what write(2) wrote, and fdatasync covers them too. But a store cannot fail as a
write can, with an error: so only room whose blocks are reserved is mapped (docs/adr/009). Knows bytes, not records.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FIRST_ROOM_AT = 64 * 1024
ROOM_BYTES = 512 * 1024
WRITTEN_BYTES = 16 * 1024
"""So much at once is written where no room is left: the page cache takes it in folios as large as it is."""

_ZEROS = bytes(128 * 1024)  # what one write gives the page cache, it keeps as one folio: cheaper to map than pages
_RESERVING = frozenset({"ext4", "xfs", "tmpfs"})  # here posix_fallocate takes the blocks that a later store needs
_MADV_POPULATE_WRITE = 23  # Linux 5.14; the mmap module has no name for it
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(eq=False, slots=True)
class OpenFile:
    """A file being appended to, up to `limit` bytes. Guarded by the spool's lock, but for what the fsyncs touch.

    `size` counts whole records written, `synced` those a power cut cannot take, `counted` those the backlog knows of.
    Past `attention` bytes the spool has something to see to.
    """

    descriptor: int
    path: Path
    limit: int
    size: int = 0
    records: int = 0
    synced: int = 0
    counted: int = 0
    attention: int = 0
    named: bool = False
    failed: bool = False
    _pages: mmap.mmap | None = field(default=None, init=False)
    _mapped_from: int = field(default=0, init=False)
    _mapped_to: int = field(default=0, init=False)
    _zeros_to: int = field(default=0, init=False)
    _next_room_at: int = field(default=FIRST_ROOM_AT, init=False)
    _reserving: bool = field(init=False)

    def __post_init__(self) -> None:
        self._reserving = _filesystem(os.fstat(self.descriptor).st_dev) in _RESERVING

    def append(self, frames: bytes, records: int = 1, durable: bool = False) -> None:
        """Add records. Raises OSError; a piece of them may stand behind `size` until `take_back`.

        What will be fsynced is written, and all after it in this room: a store into a page that an fsync has cleaned
        would make its whole folio dirty again, and each fsync write 128 kB.
        """
        start = self.size
        size = len(frames)
        end = start + size
        if end > self._next_room_at and size < WRITTEN_BYTES:
            self._make_room(end)
        if durable:
            self._unmap()
        if end <= self._mapped_to:
            base = self._mapped_from
            self._pages[start - base : end - base] = frames  # type: ignore[index]
        elif os.pwrite(self.descriptor, frames, start) != size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size = end
        self.records += records

    def take_back(self) -> bool:
        """Cut off what stands behind the records; False where that failed, and nothing more may be appended."""
        self._unmap()  # a store into pages that the file no longer has would end the process
        self._zeros_to = self.size
        self._next_room_at = max(self.size, FIRST_ROOM_AT)
        try:
            os.ftruncate(self.descriptor, self.size)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Cut off the room that is left, and close."""
        if self._zeros_to > self.size:
            self.take_back()  # where it fails, readers stop at the zeros
        self.let_go()

    def let_go(self) -> None:
        """Close what another process goes on with: the mapping too, it holds the lock that says the writer lives."""
        self._unmap()
        os.close(self.descriptor)

    def _make_room(self, end: int) -> None:
        """Map what there is up to `end` and some more. Where that fails, writes go on, and will say what is wrong."""
        self._unmap()
        self._next_room_at = self.size + ROOM_BYTES  # if it fails
        start = self.size - self.size % mmap.PAGESIZE
        room_end = min(-(-end // ROOM_BYTES) * ROOM_BYTES, self.limit)
        zeros_from = max(self.size, self._zeros_to)
        if end > room_end or room_end - zeros_from > ROOM_BYTES or not self._reserving:
            return
        with suppress(OSError):
            self._fill(zeros_from, room_end)
            self._pages = _mapped(self.descriptor, start, room_end)
            self._mapped_from, self._mapped_to, self._next_room_at = start, room_end, room_end

    def _fill(self, start: int, end: int) -> None:
        if start < end:
            os.posix_fallocate(self.descriptor, start, end - start)
        while start < end:
            start += os.pwrite(self.descriptor, _ZEROS[: end - start], start)
            self._zeros_to = start

    def _unmap(self) -> None:
        if self._pages is not None:
            self._pages.close()
            self._pages, self._mapped_to = None, 0


def _mapped(descriptor: int, start: int, end: int) -> mmap.mmap:
    """The bytes mapped, every page of them present and writable. Raises OSError where that is not to be had."""
    pages = mmap.mmap(descriptor, end - start, offset=start)
    try:
        pages.madvise(_MADV_POPULATE_WRITE)
    except OSError:
        pages.close()
        raise
    return pages


@cache
def _filesystem(device: int) -> str:
    """The type of the file system on a device, by Linux's list of mounts; empty where it does not tell."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in _MOUNTS.read_text().splitlines():
            fields = line.split()
            if fields[2] == number:
                return fields[fields.index("-") + 1]
    return ""

"""What each lease of money still has free, kept so that a killed process can be settled to the nano-dollar.

One file a process, mapped into memory and written with zeros beforehand (a store is then a memory write of 50 ns that
cannot fail for lack of disk; pwrite(2) takes 1.1 us). The kernel keeps mapped pages of a killed process. It does not
keep them through a power cut: the header names the boot, and a journal of another boot is worth nothing.

A slot has eight words of 64 bits, each written by one machine instruction:

    serial     which lease the slot belongs to
    sent       number of the last exchange that may have reached the store
    applied    number of the last exchange whose answer was taken in
    returning  what exchange `sent` gives back
    free 0, 1  free allowance (with `returning`, while that is under way): word `applied & 1` counts
    debt       used beyond the lease, in all
    -

The order of writing makes every moment readable: a new free amount goes into the word that does not count yet, then
`applied` makes it count. Knows slots and files; what the amounts mean is the reader's matter.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from llmops.gateway.allowance.exchange import LeaseRow

SUFFIX = ".leases"
SERIAL, SENT, APPLIED, RETURNING, FREE, DEBT = 0, 1, 2, 3, 4, 6
_WORDS = 8
_CHUNK_SLOTS = 512
_CHUNK = _CHUNK_SLOTS * _WORDS * 8
_HEADER = 4096
_MAGIC = b"llmops leases 1\n"


def boot_id() -> str:
    """Another one after every start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Journal:
    """The slots of this process' leases. The file is locked as long as the process lives."""

    def __init__(self, folder: Path, holder: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{holder}{SUFFIX}"
        unlocked = self.path.with_suffix(".new")  # takes its name once it is locked: nobody shall find it dead before
        self._descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        header = _MAGIC + f"{boot_id()}\n{holder}\n".encode()
        os.pwrite(self._descriptor, header.ljust(_HEADER, b"\0"), 0)
        self._views: list[memoryview] = []
        self._free: list[int] = []
        self._grow()
        unlocked.rename(self.path)

    def allot(self) -> tuple[int, memoryview, int]:
        """A slot: its number, the words it is in, and the place of its first word there."""
        if not self._free:
            self._grow()
        number = self._free.pop()
        return number, self._views[number // _CHUNK_SLOTS], number % _CHUNK_SLOTS * _WORDS

    def release(self, number: int) -> None:
        """The lease is no more; the slot may be another's."""
        self._views[number // _CHUNK_SLOTS][number % _CHUNK_SLOTS * _WORDS] = 0
        self._free.append(number)

    def close(self, *, remove: bool) -> None:
        """Let go. `remove`: nothing is left to settle."""
        if remove:
            self.path.unlink(missing_ok=True)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # the maps hold the file open too
        os.close(self._descriptor)

    def _grow(self) -> None:
        chunk = len(self._views)
        offset = _HEADER + chunk * _CHUNK
        os.pwrite(self._descriptor, bytes(_CHUNK), offset)
        mapped = mmap.mmap(self._descriptor, _CHUNK, offset=offset)
        self._views.append(memoryview(mapped).cast("q"))
        self._free.extend(range((chunk + 1) * _CHUNK_SLOTS - 1, chunk * _CHUNK_SLOTS - 1, -1))


@dataclass(frozen=True)
class DeadJournal:
    """What a process that is no more left behind; the lock is held, so that one reader alone settles it."""

    path: Path
    holder: str
    same_boot: bool
    words: memoryview
    descriptor: int

    def left_of(self, row: LeaseRow) -> tuple[int, int]:
        """Of a lease as the store knows it: what was free, and the debt that the store has not been told of.

        Whatever cannot be read for certain counts as used.
        """
        base = row.slot * _WORDS
        if not self.same_boot or base + _WORDS > len(self.words):
            return 0, 0
        slot = self.words[base : base + _WORDS]
        if slot[SERIAL] != row.serial:
            return 0, 0
        sent, applied = slot[SENT], slot[APPLIED]
        free = slot[FREE + (applied & 1)]
        debt = max(slot[DEBT] - row.debt, 0)
        if row.seq == applied:  # a later exchange, if there was one, did not reach the store
            return free, debt
        if row.seq == sent == applied + 1:  # it did, and its answer did not come back
            return free - slot[RETURNING] + row.granted, debt
        return 0, debt

    def close(self, *, remove: bool) -> None:
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def dead_journals(folder: Path) -> list[DeadJournal]:
    """Journals in the folder whose process is gone."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # settled by another process since
            continue
        if dead := _take(path, descriptor):
            found.append(dead)
        else:
            os.close(descriptor)
    return found


def _take(path: Path, descriptor: int) -> DeadJournal | None:
    """The journal, if nobody lives in it. Its name is asked for again: who held the lock may have removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    if not path.exists() or path.stat().st_ino != os.fstat(descriptor).st_ino:
        return None
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    lines = data[:_HEADER].split(b"\n")
    words = memoryview(data[_HEADER : _HEADER + (len(data) - _HEADER) // 8 * 8] if len(data) > _HEADER else b"")
    whole = data.startswith(_MAGIC) and len(lines) > 2
    same_boot = whole and lines[1].decode() == boot_id()
    return DeadJournal(path, path.name.removesuffix(SUFFIX), same_boot, words.cast("q"), descriptor)

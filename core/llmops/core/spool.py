"""The spool: where a request leaves its record in a few microseconds, to reach the lake later and exactly once.

Each process appends to a file of its own; no lock is shared between processes. `append` returns once the kernel has the
record: it survives a SIGKILL, not a power cut. `durable=True` returns after an fsync that many writers share. Records
are redacted and their long bodies cut before they touch the disk. What becomes of the files is `core.drain`'s matter.

A refused durable append may still reach the lake (its bytes may have been on the disk when the fsync failed): give a
retry the same primary key.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llmops.core.commit import GroupCommit, Retire, TaskWaiter, ThreadWaiter
from llmops.core.encode import EncodeCounters, Encoder
from llmops.core.errors import StorageError, UnavailableError
from llmops.core.openfile import OpenFile
from llmops.core.segments import backlog_bytes, create_segment

_MEASURE_EVERY_BYTES = 4 * 1024 * 1024
_MEASURE_EVERY_S = 0.1


class SpoolConfig(BaseModel):
    """The limits of one process' spool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segment_bytes: int = Field(16 * 1024 * 1024, ge=4096, description="Size at which a new file is begun")
    backlog_bytes: int = Field(2 * 1024**3, ge=0, description="What may wait for the drainer, all processes together")
    body_bytes: int = Field(
        1024 * 1024, ge=0, description="Where a request or response body is cut, with an error code"
    )
    personal_data: dict[str, str] = Field(default_factory=dict, description="Patterns to redact: name -> regex")


@dataclass
class SpoolCounters(EncodeCounters):
    """What happened since the spool was opened; read by metrics.

    `appended` and `appended_bytes` are of the files done with; `Spool.appended` counts the current one too.
    """

    appended: int = 0
    appended_bytes: int = 0
    shed: int = 0
    refused: int = 0
    failed: int = 0


class Spool:
    """One process' way into the lake; share one instance between its threads.

    Raises, from all appends:
        StorageError: the disk is full or failing.
        UserError, TooLargeError: the record is not JSON, or over 64 MB.
    """

    def __init__(self, folder: Path, config: SpoolConfig | None = None) -> None:
        self.folder = folder
        self.config = config or SpoolConfig()
        self.counters = SpoolCounters()
        self._encode = Encoder(self.config.body_bytes, self.config.personal_data, self.counters).encode
        self._backlog = backlog_bytes(folder)
        self._unmeasured = 0
        self._room = min(_MEASURE_EVERY_BYTES, self.config.backlog_bytes - self._backlog)
        self._measured_at = time.monotonic()
        self._lock = threading.Lock()
        self._file: OpenFile | None = None
        self._commit: GroupCommit | None = None
        _open_spools.add(self)

    def append(self, table: str, record: Mapping[str, Any], durable: bool = False) -> bool:
        """Keep a record of the table; False where it was shed because the drainer is too far behind.

        A durable record is never shed: `UnavailableError` refuses it.
        """
        frame = b"".join(self._encode(table, record))
        if not durable:
            return self._put(frame, 1, None)
        waiter = ThreadWaiter()
        self._put(frame, 1, waiter)
        waiter.wait()
        return True

    def append_all(self, table: str, records: Sequence[Mapping[str, Any]]) -> bool:
        """Keep records of one table by one write, all or none: with 16 or more, half of what they cost one by one."""
        pieces: list[bytes] = []
        for record in records:
            pieces += self._encode(table, record)
        return self._put(b"".join(pieces), len(records), None)

    async def append_durable(self, table: str, record: Mapping[str, Any]) -> None:
        """Like `append(..., durable=True)`, waiting without holding up the event loop."""
        waiter = TaskWaiter(asyncio.get_running_loop().create_future())
        self._put(b"".join(self._encode(table, record)), 1, waiter)
        await waiter.future

    @property
    def commits(self) -> int:
        """How many fsyncs the durable appends have shared."""
        return self._commit.commits if self._commit else 0

    @property
    def backlog(self) -> int:
        """Bytes that wait for the drainer, as last measured, plus what this process added since."""
        file = self._file
        return self._backlog + self._unmeasured + (file.size - file.counted if file else 0)

    @property
    def appended(self) -> int:
        """How many records were appended."""
        return self.counters.appended + (self._file.records if self._file else 0)

    @property
    def current(self) -> OpenFile | None:
        """The file being appended to."""
        return self._file

    def close(self) -> None:
        """Let the file go, so that the drainer may remove it; a later append begins a new one."""
        with self._lock:
            self._leave_file()
            commit, self._commit = self._commit, None
        if commit is not None:
            commit.stop()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, frames: bytes, records: int, waiter: ThreadWaiter | TaskWaiter | None) -> bool:
        """One append. Records that did not fit whole are taken back: none stands behind their pieces."""
        size = len(frames)
        with self._lock:
            file = self._file
            if file is None or file.size + size > file.attention:
                file = self._attend(size, waiter is not None)
                if file is None:
                    self.counters.shed += records
                    return False
            try:
                file.append(frames, records, waiter is not None)
            except OSError as error:
                if not file.take_back():
                    self._leave_file()
                raise self._failure(error) from error
            if waiter is not None:
                waiter.file, waiter.end = file, file.size
                self._committing().submit(waiter)
        return True

    def _attend(self, size: int, durable: bool) -> OpenFile | None:
        """The file to append to once all that fast appends leave aside is seen to; None where the backlog is full."""
        file = self._file
        if file is not None:
            self._count(file)
        if self._unmeasured + size > self._room and not self._admit(size, durable):
            return None
        if file is None or file.size + size > file.limit:
            self._leave_file()
            try:
                file = OpenFile(*create_segment(self.folder), limit=self.config.segment_bytes)
            except OSError as error:
                raise self._failure(error) from error
            self._file = file
        file.attention = min(file.limit, file.size + self._room - self._unmeasured)
        return file

    def _count(self, file: OpenFile) -> None:
        self._unmeasured += file.size - file.counted
        file.counted = file.size

    def _admit(self, size: int, durable: bool) -> bool:
        """Whether the backlog has room; measured anew every few MB, and while it is full ten times a second."""
        cap, now = self.config.backlog_bytes, time.monotonic()
        full = self._backlog + self._unmeasured + size > cap
        if not full or now - self._measured_at > _MEASURE_EVERY_S:
            self._backlog, self._unmeasured, self._measured_at = backlog_bytes(self.folder), 0, now
            self._room = min(_MEASURE_EVERY_BYTES, cap - self._backlog)
            full = size > self._room
        if not full:
            return True
        if durable:
            self.counters.refused += 1
            raise UnavailableError(
                f"the spool holds {self._backlog} bytes that wait for the drainer, and takes no more",
                where=str(self.folder),
                hint="is a drainer running (`llmops serve` starts one)? is the lake's disk full?",
                code="spool_full",
            )
        return False

    def _leave_file(self) -> None:
        old, self._file = self._file, None
        if old is None:
            return
        self._count(old)
        self.counters.appended += old.records
        self.counters.appended_bytes += old.size
        if self._commit is None:
            old.close()
        else:
            self._commit.submit(Retire(old))  # somebody may still wait for its fsync

    def _failure(self, error: OSError) -> StorageError:
        self.counters.failed += 1
        return StorageError(
            f"a record could not be written: {error.strerror}", where=str(self.folder), hint="is the disk full?"
        )

    def _committing(self) -> GroupCommit:
        if self._commit is None:
            self._commit = GroupCommit(self._abandon)
        return self._commit

    def _abandon(self, file: OpenFile) -> None:
        with self._lock:
            if self._file is file:
                self._leave_file()

    def _after_fork(self) -> None:
        """In a forked child: the parent goes on with its file and its thread, the child begins its own."""
        if self._file is not None:
            self._file.let_go()
        self._lock = threading.Lock()
        self._file = self._commit = None


_open_spools: weakref.WeakSet[Spool] = weakref.WeakSet()


def _after_fork() -> None:
    for spool in list(_open_spools):
        spool._after_fork()


os.register_at_fork(after_in_child=_after_fork)

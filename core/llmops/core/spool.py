"""The spool: where a request leaves its record in a few microseconds, to reach the lake later and exactly once.

Each process appends to a file of its own; no lock is shared between processes. `append` returns after write(2): what it
took survives a SIGKILL, not a power cut. `durable=True` returns after an fsync that many writers share. Records are
redacted and their long bodies cut before they touch the disk. What becomes of the files is `core.drain`'s matter.

A refused durable append may still reach the lake (its bytes may have been on the disk when the fsync failed): give a
retry the same primary key.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from llmops.core.commit import GroupCommit, OpenFile, Prepare, Retire, TaskWaiter, ThreadWaiter
from llmops.core.errors import StorageError, TooLargeError, UnavailableError, UserError
from llmops.core.frames import MAX_PAYLOAD, frame
from llmops.core.redact import PersonalData, redact_secrets
from llmops.core.segments import backlog_bytes, create_segment
from llmops.core.tables import TABLES

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
class SpoolCounters:
    """What happened since the spool was opened; read by metrics.

    `appended` and `appended_bytes` are of the files done with; `Spool.appended` counts the current one too.
    """

    appended: int = 0
    appended_bytes: int = 0
    shed: int = 0
    refused: int = 0
    failed: int = 0
    cut_bodies: int = 0
    redacted: int = 0
    mended: int = 0


class Spool:
    """One process' way into the lake; share one instance between its threads.

    Raises, from both appends:
        StorageError: the disk is full or failing.
        UserError, TooLargeError: the record is not JSON, or over 64 MB.
    """

    def __init__(self, folder: Path, config: SpoolConfig | None = None) -> None:
        self.folder = folder
        self.config = config or SpoolConfig()
        self.counters = SpoolCounters()
        self._personal = PersonalData(self.config.personal_data) if self.config.personal_data else None
        self._tables: dict[str, tuple[bytes, tuple[tuple[str, str], ...]]] = {}
        self._body_limit = self.config.body_bytes // 4  # in characters, that is safe without encoding
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
        if not durable:
            return self._put(table, record, None)
        waiter = ThreadWaiter()
        self._put(table, record, waiter)
        waiter.wait()
        return True

    async def append_durable(self, table: str, record: Mapping[str, Any]) -> None:
        """Like `append(..., durable=True)`, waiting without holding up the event loop."""
        waiter = TaskWaiter(asyncio.get_running_loop().create_future())
        self._put(table, record, waiter)
        await waiter.future

    @property
    def commits(self) -> int:
        """How many fsyncs the durable appends have shared."""
        return self._commit.commits if self._commit else 0

    @property
    def backlog(self) -> int:
        """Bytes that wait for the drainer, as last measured, plus what this process added since."""
        return self._backlog + self._unmeasured

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

    def _put(self, table: str, record: Mapping[str, Any], waiter: ThreadWaiter | TaskWaiter | None) -> bool:
        """One write(2). A record that did not fit whole is taken back: no later one stands behind its pieces."""
        data = self._encode(table, record)
        size = len(data)
        with self._lock:
            self._unmeasured += size
            if self._unmeasured > self._room and not self._admit(size, waiter is not None):
                return False
            file = self._file
            if file is None or file.size + size > file.attention:
                file = self._attend(size)
            try:
                written = os.pwrite(file.descriptor, data, file.size)
            except OSError as error:
                raise self._failure(error) from error
            if written != size:
                self._take_back(file)
                raise self._failure(OSError(28, "no space left for the whole record"))
            file.size += size
            file.records += 1
            if waiter is not None:
                waiter.file, waiter.end = file, file.size
                self._committing().submit(waiter)
        return True

    def _encode(self, table: str, record: Mapping[str, Any]) -> bytes:
        try:
            prefix, bodies = self._tables[table]
        except KeyError:
            prefix, bodies = self._tables[table] = _table(table)
        for column, code in bodies:
            body = record.get(column)
            if body is not None and (type(body) is not str or len(body) > self._body_limit):
                record = self._cut(record, column, code)
        if self._personal is not None:
            record = self._personal.redact(record)
        try:
            encoded = orjson.dumps(record, _plain)
        except TypeError as error:
            encoded = self._mend(record, error)
        clean = redact_secrets(encoded)
        if clean is not encoded:
            self.counters.redacted += 1
        if len(clean) > MAX_PAYLOAD - 1024:
            raise TooLargeError(f"a record of {len(clean)} bytes is too large for the spool", where=table)
        return frame(prefix, clean)

    def _cut(self, record: Mapping[str, Any], column: str, code: str) -> Mapping[str, Any]:
        body = record[column]
        if not isinstance(body, str):
            body = orjson.dumps(body, _plain).decode()
            record = {**record, column: body}
        encoded = body.encode("utf-8", "surrogatepass")
        if len(encoded) <= self.config.body_bytes:
            return record
        self.counters.cut_bodies += 1
        codes = [*(record.get("logging_error_codes") or ()), code]
        kept = encoded[: self.config.body_bytes].decode("utf-8", "ignore")
        return {**record, column: kept, "logging_error_codes": codes}

    def _mend(self, record: Mapping[str, Any], error: TypeError) -> bytes:
        """Encode a record that holds half a surrogate pair (LLMs can stop inside an emoji), as U+FFFD."""
        try:
            encoded = orjson.dumps(_without_surrogates(record), _plain)
        except TypeError:
            raise UserError(f"the record is not JSON: {error}", hint="keys are texts; values are plain") from error
        self.counters.mended += 1
        return encoded

    def _admit(self, size: int, durable: bool) -> bool:
        """Whether the backlog has room; measured anew every few MB, and while it is full ten times a second."""
        cap, now = self.config.backlog_bytes, time.monotonic()
        full = self._backlog + self._unmeasured > cap
        if not full or now - self._measured_at > _MEASURE_EVERY_S:
            self._backlog, self._unmeasured, self._measured_at = backlog_bytes(self.folder), size, now
            self._room = min(_MEASURE_EVERY_BYTES, cap - self._backlog)
            full = size > self._room
        if not full:
            return True
        self._unmeasured -= size
        if durable:
            self.counters.refused += 1
            raise UnavailableError(
                f"the spool holds {self._backlog} bytes that wait for the drainer, and takes no more",
                where=str(self.folder),
                hint="is a drainer running (`llmops serve` starts one)? is the lake's disk full?",
                code="spool_full",
            )
        self.counters.shed += 1
        return False

    def _attend(self, size: int) -> OpenFile:
        """The file to append to: a new one, or the old one whose next room is asked for."""
        file = self._file
        if file is None or file.size + size > self.config.segment_bytes:
            self._leave_file()
            try:
                file = OpenFile(*create_segment(self.folder), limit=self.config.segment_bytes)
            except OSError as error:
                raise self._failure(error) from error
            self._file = file
        elif file.size + size > file.attention:
            file.attention = file.limit  # until there is more room
            self._committing().submit(Prepare(file))
        return file

    def _leave_file(self) -> None:
        old, self._file = self._file, None
        if old is None:
            return
        self.counters.appended += old.records
        self.counters.appended_bytes += old.size
        if self._commit is None:
            old.close()
        else:
            self._commit.submit(Retire(old))  # somebody may still wait for its fsync

    def _take_back(self, file: OpenFile) -> None:
        try:
            os.ftruncate(file.descriptor, file.size)
        except OSError:
            self._leave_file()  # readers skip the torn piece at its end

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
            os.close(self._file.descriptor)
        self._lock = threading.Lock()
        self._file = self._commit = None


_open_spools: weakref.WeakSet[Spool] = weakref.WeakSet()


def _after_fork() -> None:
    for spool in list(_open_spools):
        spool._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _table(table: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    if "\n" in table:
        raise UserError("a table's name has one line", where=repr(table))
    spec = TABLES.get(table.rpartition(".")[2])
    return f"{table}\n".encode(), tuple(spec.bodies.items()) if spec else ()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal | Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value

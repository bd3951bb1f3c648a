"""Moves records from the spool into the lake, exactly once: one drainer a lake, guarded by a lock.

Each commit carries a transaction per segment (`app_id` the segment's name, version the offset behind its last record).
A crash at any point makes the next drainer read the same records again and skip those the table says it has. A segment
goes only after its records are durable in the lake, or set aside as dead letters, and its writer is gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson
from pydantic import BaseModel, ConfigDict, Field

from llmops.core.convert import to_arrow
from llmops.core.deadletter import DeadLetter, set_aside
from llmops.core.errors import ConflictError, IntegrityError, LlmopsError, StorageError, UserError
from llmops.core.files import exclusive_lock
from llmops.core.frames import Frame, scan
from llmops.core.lake import Lake, Transaction
from llmops.core.segments import Segment, clear_leftovers, open_segments
from llmops.core.state import StateConfig
from llmops.core.tables import FEEDBACK, INFERENCE_LOG, spec_of

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
_FIRST_MAINTENANCE_S = 300.0  # so that a server which never runs for an hour still compacts


class DrainConfig(BaseModel):
    """How often the spool is drained, and how much at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval_s: float = Field(5.0, gt=0, description="Time between two rounds")
    batch_bytes: int = Field(32 * 1024 * 1024, gt=0, description="What one round reads at most, to whole files")
    maintain_every_s: float = Field(3600.0, gt=0, description="Time between two compactions of every table")


@dataclass
class DrainCounters:
    """What happened since the drainer was made; read by metrics."""

    rounds: int = 0
    records: int = 0
    commits: int = 0
    dead_letters: int = 0
    torn: int = 0
    torn_bytes: int = 0
    segments_removed: int = 0
    failures: int = 0
    maintenances: int = 0
    last_round_at: float = 0.0
    last_error: str = ""


@dataclass
class _Reading:
    """What one round read of a segment. `position` is where the next round goes on if all of it gets home."""

    segment: Segment
    abandoned: bool
    position: int
    frames: list[Frame] = field(default_factory=list)


@dataclass(frozen=True)
class _Record:
    segment: str
    frame: Frame


class Drainer:
    """Drains on request (`drain_once`) or in a thread of its own (`start`, `stop`)."""

    def __init__(self, state: StateConfig, config: DrainConfig | None = None, lake: Lake | None = None) -> None:
        self.config = config or DrainConfig()
        self.counters = DrainCounters()
        self.lake = lake or Lake(state)
        self._spool = state.spool
        self._retention = state.retention
        self._dead_letters = state.root / "dead-letters"
        self._lock_path = state.root / "drain.lock"
        self._mended: set[str] = set()
        self._maintained_at = time.monotonic() - max(0.0, self.config.maintain_every_s - _FIRST_MAINTENANCE_S)
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def drain_once(self) -> int:
        """Drain all there is now; tells how many records.

        Raises:
            ConflictError: another process is draining; what it leaves will be drained by it.
            StorageError, IntegrityError: a table could not be written; its records wait in the spool.
        """
        with self._guard():
            return self._drain_all()

    def start(self) -> None:
        """Drain in a thread; where another process drains, stand by and take over when it ends."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Drain what is there, then end the thread."""
        if self._thread is not None:
            self._stopping.set()
            self._wanted.set()
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Drainer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wake(self) -> None:
        """Begin the thread's next round now."""
        self._wanted.set()

    def maintain(self) -> None:
        """Delete rows past their time; compact, vacuum and shorten the log of every table."""
        for table in self.lake.tables() if self.lake.is_local else sorted(self._mended):
            self._expire(table)
            self.lake.maintain(table)
        self._maintained_at = time.monotonic()
        self.counters.maintenances += 1

    def _expire(self, table: str) -> None:
        ages = {
            INFERENCE_LOG.asset: ("request_time", self._retention.exchanges_days),
            FEEDBACK.asset: ("event_time", self._retention.feedback_days),
        }
        column, days = ages.get(table.rpartition(".")[2], ("", None))
        if days is not None and (gone := self.lake.expire(table, column, datetime.now(UTC) - timedelta(days=days))):
            _log.info("deleted %d rows of %s that are older than %g days", gone, table, days)

    def _guard(self) -> ExitStack:
        with ExitStack() as stack:
            stack.enter_context(exclusive_lock(self._lock_path, what="draining the spool into the lake"))
            self._mended.clear()  # whoever had the lock before may have died in the middle of a commit
            clear_leftovers(self._spool)
            return stack.pop_all()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._guard():
                    self._run_guarded()
            except ConflictError:
                self._wanted.wait(self.config.interval_s)
                self._wanted.clear()
            except Exception as error:  # noqa: BLE001 - the thread's boundary: it has to outlive a bad disk
                self._failed(error)
                self._stopping.wait(self.config.interval_s)

    def _run_guarded(self) -> None:
        pause_s = self.config.interval_s
        while True:
            stopping = self._stopping.is_set()
            try:
                self._drain_all()
                if time.monotonic() - self._maintained_at > self.config.maintain_every_s:
                    self.maintain()
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(error)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = self.config.interval_s
            if stopping:
                return
            self._wanted.wait(pause_s)
            self._wanted.clear()

    def _failed(self, error: Exception) -> None:
        self.counters.failures += 1
        self.counters.last_error = str(error)
        _log.error("draining failed, and will be tried again: %s", error, exc_info=not isinstance(error, LlmopsError))

    def _drain_all(self) -> int:
        """One pass over the segments. A table that fails keeps its own records waiting, not those of the others."""
        before = self.counters.records
        failures: list[_Failure] = []
        with open_segments(self._spool) as segments:
            for readings in self._batches(segments):
                failed = self._store(readings)
                for reading in readings:
                    if not any(failure.touches(reading) for failure in failed):
                        self._finish(reading)
                failures += failed
        self.counters.rounds += 1
        self.counters.last_round_at = time.time()
        if failures:
            raise failures[0].error
        return self.counters.records - before

    def _batches(self, segments: Sequence[Segment]) -> Iterator[list[_Reading]]:
        batch: list[_Reading] = []
        size_bytes = 0
        for segment in segments:
            abandoned = segment.abandoned()  # before its size: then nothing can be added after we read
            start, end = segment.drained(), segment.size_bytes()
            if end > start or abandoned:
                batch.append(self._scan(segment, abandoned, start))
                size_bytes += end - start
            if size_bytes >= self.config.batch_bytes:
                yield batch
                batch, size_bytes = [], 0
        if batch:
            yield batch

    def _scan(self, segment: Segment, abandoned: bool, start: int) -> _Reading:
        data = segment.read(start)
        reading = _Reading(segment, abandoned, start + len(data))
        for found in scan(data, start):
            if isinstance(found, Frame):
                reading.frames.append(found)
            elif not abandoned:
                # Still being written: here, or while we read, and then a record stands behind one that we missed.
                reading.position = found.start
                break
            elif not found.blank:
                self.counters.torn += 1
                self.counters.torn_bytes += found.end - found.start
                _log.warning("skipped %d torn bytes of %s at %d", found.end - found.start, segment.path, found.start)
        return reading

    def _store(self, readings: Sequence[_Reading]) -> list[_Failure]:
        tables: dict[str, list[_Record]] = {}
        for reading in readings:
            for frame in reading.frames:
                tables.setdefault(frame.table, []).append(_Record(reading.segment.name, frame))
        failures = []
        for table, records in tables.items():
            try:
                self._store_table(table, records)
            except LlmopsError as error:
                failures.append(_Failure(table, error))
        return failures

    def _store_table(self, table: str, records: Sequence[_Record]) -> None:
        try:
            spec = spec_of(table)
            self._mend(table)
        except UserError as error:
            self._set_aside(table, [(record, error.what) for record in records])
            return
        have = self.lake.committed(table, {record.segment for record in records})
        fresh = [record for record in records if record.frame.end > have[record.segment]]
        parsed, broken = _parse(fresh)
        arrow, bad = to_arrow(spec, [row for _, row in parsed])
        broken += [(parsed[row.place][0], row.reason) for row in bad]
        self._set_aside(table, broken)
        if not arrow.num_rows:
            return
        last = {record.segment: record.frame.end for record in fresh}
        try:
            committed = self.lake.append_arrow(table, arrow, [Transaction(*item) for item in sorted(last.items())])
        except IntegrityError as error:
            if error.error_code != "schema_mismatch":
                raise
            self._set_aside(table, [(record, error.what) for record, _ in parsed])
            return
        if committed is not None:
            self.counters.commits += 1
            self.counters.records += arrow.num_rows

    def _mend(self, table: str) -> None:
        if table not in self._mended:
            for version in self.lake.mend(table):
                _log.warning("set aside version %d of %s, which a power cut left torn", version, table)
            self._mended.add(table)

    def _set_aside(self, table: str, records: Sequence[tuple[_Record, str]]) -> None:
        if not records:
            return
        letters = [
            DeadLetter(record.segment, record.frame.start, table, reason, record.frame.body)
            for record, reason in records
        ]
        self.counters.dead_letters += set_aside(self._dead_letters, letters)
        _log.warning("set aside %d records of %s: %s", len(letters), table, letters[0].reason)

    def _finish(self, reading: _Reading) -> None:
        try:
            if reading.abandoned:
                reading.segment.remove()
                self.counters.segments_removed += 1
            elif reading.position > reading.segment.drained():
                reading.segment.note_drained(reading.position)
        except OSError as error:
            raise StorageError(f"the spool cannot be cleared: {error.strerror}", where=str(self._spool)) from error


@dataclass(frozen=True)
class _Failure:
    table: str
    error: LlmopsError

    def touches(self, reading: _Reading) -> bool:
        return any(frame.table == self.table for frame in reading.frames)


def _parse(records: Sequence[_Record]) -> tuple[list[tuple[_Record, dict[str, object]]], list[tuple[_Record, str]]]:
    parsed: list[tuple[_Record, dict[str, object]]] = []
    broken: list[tuple[_Record, str]] = []
    for record in records:
        try:
            row = orjson.loads(record.frame.body)
        except orjson.JSONDecodeError as error:
            broken.append((record, f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            parsed.append((record, row))
        else:
            broken.append((record, "not a JSON object"))
    return parsed, broken

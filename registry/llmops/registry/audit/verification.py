"""Checking the chain: every seal, every number, the anchor, every intent's outcome, and the evidence it rests on.

Reads the log once, in order, in large batches. Knows what a broken row looks like, and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, select

from llmops.core.errors import IntegrityError
from llmops.core.ids import digest
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry import tables as registry_tables
from llmops.registry.audit import entries, tables
from llmops.registry.audit.anchor import Anchor, Mark
from llmops.registry.audit.entries import ANCHOR, COLUMNS, INTENT, seal
from llmops.registry.audit.keyfile import load_key

BATCH = 500  # larger ones leave the processor's cache and are a fifth slower
MOST_TOLD = 100
"""Problems told one by one; a chain that was rewritten has one a row."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `seq` is the row where it shows, None where it is no row's."""

    seq: int | None
    what: str

    def as_json(self) -> dict[str, Any]:
        return {"seq": self.seq, "what": self.what}


@dataclass
class Report:
    """What was found. A problem means that somebody changed something; a warning, that something deserves a look."""

    entries: int = 0
    evidence: int = 0
    anchored: int | None = None
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def first_bad(self) -> int | None:
        """The first row that something is wrong with; None where nothing is, or where it is no row's."""
        return min((problem.seq for problem in self.problems if problem.seq is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        """The report as `llmops audit verify --json` prints it."""
        return {
            "ok": self.ok,
            "entries": self.entries,
            "evidence": self.evidence,
            "anchored": self.anchored,
            "first_bad": self.first_bad,
            "problems": [problem.as_json() for problem in self.problems],
            "warnings": [warning.as_json() for warning in self.warnings],
            "seconds": round(self.seconds, 3),
        }

    def wrong(self, seq: int | None, what: str) -> None:
        if len(self.problems) < MOST_TOLD:
            self.problems.append(Problem(seq, what))

    def doubtful(self, seq: int | None, what: str) -> None:
        if len(self.warnings) < MOST_TOLD:
            self.warnings.append(Problem(seq, what))


def verify(sql: Sql, state: StateConfig) -> Report:
    """Check the whole chain, in one consistent view of the database.

    Raises:
        IntegrityError: there are rows, and no key to check them with.
    """
    started, report = time.perf_counter(), Report()
    anchor = _anchor(state, report)  # read before the rows: it may be behind them, never ahead
    with sql.read() as connection:
        evidence: dict[str, int] = {}
        if _any(connection):
            chain = _Chain(load_key(state), anchor, report)
            for batch in _batches(connection):
                chain.follow(batch)
            chain.end()
            evidence = chain.evidence
        _head(connection, report, anchor)
        _evidence(connection, evidence, report)
    report.seconds = time.perf_counter() - started
    return report


def _any(connection: Connection) -> bool:
    return connection.execute(select(tables.log.c.seq).limit(1)).first() is not None


def _batches(connection: Connection) -> Iterator[Sequence[tuple[Any, ...]]]:
    """The log's rows in order, as the driver gives them: all columns are texts and whole numbers in both databases."""
    query = str(select(tables.log).order_by(tables.log.c.seq).compile(connection.engine))
    driver: Any = connection.connection.dbapi_connection
    on_server = {} if connection.dialect.name == "sqlite" else {"name": "audit_log"}  # else all rows come at once
    with closing(driver.cursor(**on_server)) as cursor:
        cursor.execute(query)
        while batch := cursor.fetchmany(BATCH):
            yield batch


class _Chain:
    """The walk along the rows: what the next one has to look like, and which intents wait for their outcome."""

    def __init__(self, key: bytes, anchor: Mark | None, report: Report) -> None:
        self._key = key
        self._chain = entries.fingerprint(key)
        self._anchor = anchor or Mark(0, "")
        self._report = report
        self._last = Mark(0, "")
        self._time = ""
        self._open: dict[str, tuple[Any, ...]] = {}
        self.evidence: dict[str, int] = {}

    def follow(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Check a batch of rows; what is right costs one seal and a few comparisons a row."""
        key, seq, last, time_, anchored = self._key, self._last.seq, self._last.hash, self._time, self._anchor.seq
        waiting = self._open
        for row in batch:
            number, action, phase, at = row[:4]
            evidence_id, previous, hash_ = row[-3:]
            right = _sealed(key, row) == hash_
            if not right or number != seq + 1 or previous != last:
                self._explain(row, Mark(seq, last), right=right)
            if number == anchored and hash_ != self._anchor.hash:
                self._report.wrong(number, "this row is not the one that the anchor remembers: the log was replaced")
            if at < time_:
                self._clock_went_back(row, time_)
            if (phase == INTENT) is (action in waiting):
                self._report.wrong(number, _UNPAIRED[phase == INTENT])
            if phase == INTENT:
                waiting[action] = row
                if row[_NAME] == ANCHOR:
                    self._report.doubtful(number, "the anchor was gone here, and begun anew")
            else:
                waiting.pop(action, None)
            if evidence_id is not None:
                self.evidence.setdefault(evidence_id, number)
            seq, last, time_ = number, hash_, at
        self._last, self._time = Mark(seq, last), time_
        self._report.entries += len(batch)

    def end(self) -> None:
        """What only shows after the last row."""
        for row in self._open.values():
            what = f"{row[_NAME]} on {row[_ABOUT]}"
            self._report.doubtful(row[_SEQ], f"{what} has no outcome: it runs, or was interrupted")

    def _explain(self, row: tuple[Any, ...], before: Mark, *, right: bool) -> None:
        number = row[_SEQ]
        if number == 1 and row[_CHAIN] != self._chain:
            self._report.wrong(1, f"the chain {row[_CHAIN]} was sealed with another key than the one here")
        elif not right:
            self._report.wrong(number, "this row was changed, or sealed with another key")
        elif number != before.seq + 1:
            gone = f"{before.seq + 1}" if number == before.seq + 2 else f"{before.seq + 1} to {number - 1}"
            self._report.wrong(before.seq + 1, f"rows are gone: {gone}")
        else:
            self._report.wrong(number, "this row does not follow the one before it")

    def _clock_went_back(self, row: tuple[Any, ...], before: str) -> None:
        try:
            back = datetime.fromisoformat(before) - datetime.fromisoformat(row[_TIME])
        except ValueError:  # no time at all; its seal told already
            return
        self._report.doubtful(row[_SEQ], f"the clock went back by {back.total_seconds():.3f} s before this row")


_SEQ, _CHAIN, _TIME, _NAME, _ABOUT = (
    COLUMNS.index(name) for name in ("seq", "account_id", "event_time", "action_name", "about")
)
_UNPAIRED = {True: "a second intent of one action", False: "an outcome without an intent, or a second outcome"}


def _sealed(key: bytes, row: tuple[Any, ...]) -> str:
    try:
        return seal(key, row[:-1])
    except TypeError:  # a value of a type that is never written
        return ""


def _anchor(state: StateConfig, report: Report) -> Mark | None:
    try:
        mark = Anchor(state.anchor).read()
    except IntegrityError as error:
        report.wrong(None, f"{error.what}: {error.where}")
        return None
    report.anchored = None if mark is None else mark.seq
    return mark


def _head(connection: Connection, report: Report, anchor: Mark | None) -> None:
    """Where the log ends, against what head and anchor remember: a cut-off tail shows nowhere else."""
    last = connection.execute(
        select(tables.log.c.seq, tables.log.c.hash).order_by(tables.log.c.seq.desc()).limit(1)
    ).first()
    ends = Mark(0, "") if last is None else Mark(last.seq, last.hash)
    head = connection.execute(select(tables.head.c.seq, tables.head.c.hash)).first()
    if anchor is None and ends.seq and report.anchored is None:
        report.wrong(None, "the anchor is gone: whether the end of the log was cut off can't be told")
    if anchor is not None and anchor.seq > ends.seq:
        report.wrong(ends.seq + 1, f"the end of the log was cut off: the anchor remembers row {anchor.seq}")
    if head is None or (head.seq, head.hash) != (ends.seq, ends.hash):
        remembered = "nothing" if head is None else f"row {head.seq}"
        report.wrong(ends.seq + 1, f"the log ends with row {ends.seq}, but its head remembers {remembered}")


def _evidence(connection: Connection, wanted: dict[str, int], report: Report) -> None:
    """Every record of evidence against its own digest, and every one that the log names against its being there."""
    table = registry_tables.evidence.c
    query = select(table.evidence_id, table.name, table.version, table.gate, table.verdict, table.body)
    missing = dict(wanted)
    for batch in connection.execute(query, execution_options={"yield_per": BATCH}).partitions():
        for row in batch:
            seq = missing.pop(row.evidence_id, None)
            if digest(row.body) != row.evidence_id or not _columns_match(row):
                report.wrong(wanted.get(row.evidence_id, seq), f"evidence {row.evidence_id} was changed")
        report.evidence += len(batch)
    for evidence_id, seq in missing.items():
        report.wrong(seq, f"evidence {evidence_id} is gone")


def _columns_match(row: Any) -> bool:
    """Whether the columns by which decisions are made say what the sealed body says."""
    body = orjson.loads(row.body)
    told = (body["asset"]["name"], body["asset"]["version"], body["gate"], body["verdict"])
    return told == (row.name, row.version, row.gate, row.verdict)

"""Erases a person's exchanges, or what a document said in others', from the log: spool, lake and history, dead letters.

A person's rows are deleted. Of an exchange that quotes a document the row stays, for counts and costs, and its bodies
go. Rows are found by what they say, and all rows of the same request with them: a gateway's row holds the prompt. May
be called again after a crash at any point. Knows tables and files; its caller says by which words a document is known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llmops.core.drain import Drainer
from llmops.core.errors import ConflictError, StorageError, UnavailableError
from llmops.core.files import write_atomic
from llmops.core.lake import Lake
from llmops.core.segments import open_segments
from llmops.core.state import StateConfig
from llmops.core.tables import FEEDBACK, INFERENCE_LOG

FORGOTTEN_BODY = '{"forgotten":true}'
_BLANK = {"request_json": f"'{FORGOTTEN_BODY}'", "response_json": f"'{FORGOTTEN_BODY}'"}
_PATIENCE_S = 60.0
_PAUSE_S = 0.5
_ATTEMPTS = 5
_QUESTIONS, _QUESTION_CHARS = 20, 24


@dataclass(frozen=True)
class Subject:
    """Whose, or what is to be erased: a requester, or documents, by their uris and by words that only they hold.

    Attributes:
        requests: known to be the subject's from an earlier call, which may have been cut off.
    """

    requester: str | None = None
    uris: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    requests: frozenset[str] = frozenset()

    @property
    def in_bodies(self) -> tuple[str, ...]:
        """How documents stand in a body, which is JSON: a uri as a whole value, words as a part of one."""
        uris = (orjson.dumps(uri).decode() for uri in self.uris)
        return (*uris, *(_inside(word) for word in self.words))

    @property
    def in_records(self) -> tuple[bytes, ...]:
        """How the subject stands in a record, in which a body is a JSON text of its own."""
        if self.requester is not None:
            return (orjson.dumps(self.requester),)
        return tuple(_inside(text).encode() for text in self.in_bodies)


def _inside(text: str) -> str:
    """A text as a part of a JSON string."""
    return orjson.dumps(text)[1:-1].decode()


@dataclass
class Erased:
    """What was, or by a plan would be, erased: rows by table."""

    deleted: dict[str, int] = field(default_factory=dict)
    blanked: dict[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    requests: frozenset[str] = frozenset()
    questions: tuple[str, ...] = ()
    """Some of what a person asked: words by which copies of it are found elsewhere."""


class LogEraser:
    """Erases one subject from the log of one state folder."""

    def __init__(self, state: StateConfig, subject: Subject) -> None:
        self._state, self._subject = state, subject
        self._lake = Lake(state)

    def plan(self) -> Erased:
        """What `erase` would find now; what still waits in the spool is not counted."""
        found = self._erase(plan=True)
        if self._subject.requester is not None:
            found.questions = tuple(dict.fromkeys(self._questions()))[:_QUESTIONS]
        return found

    def erase(self) -> Erased:
        """Erase it.

        Raises:
            UnavailableError: records wait in the spool, and nobody drains them.
            ConflictError: other processes kept changing a table.
        """
        self._drain()
        done = self._erase(plan=False)
        done.dead_letters = self._bury()
        with open_segments(self._state.spool) as segments:
            for segment in segments:
                with suppress(FileNotFoundError):  # drained and removed meanwhile
                    segment.blank_drained()
        return done

    def _drain(self) -> None:
        """Bring what the spool holds of the subject into the lake, where it can be erased."""
        drainer, deadline = Drainer(self._state, lake=self._lake), time.monotonic() + _PATIENCE_S
        while self._waits():
            try:
                drainer.drain_once()
            except ConflictError:  # a server drains: it is waited for
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "records wait in the spool, and the process that drains it does not get on",
                        where=str(self._state.spool),
                        hint="end that process, then run again",
                    ) from None
                time.sleep(_PAUSE_S)

    def _waits(self) -> bool:
        with open_segments(self._state.spool) as segments:
            return any(
                needle in data
                for segment in segments
                for data in [segment.read(segment.drained())]
                for needle in self._subject.in_records
            )

    def _erase(self, *, plan: bool) -> Erased:
        done = Erased()
        logs = self._logs()
        done.requests = self._subject.requests.union(*(self._requests(table) for table in logs))
        for table in logs:
            rows = self._rows(table, done.requests)
            self._remove(table, rows, done, whole=self._subject.requester is not None, plan=plan)
        for table in self._logs(FEEDBACK.asset):
            person, quotes = self._judgements(table, done.requests)
            self._remove(table, person, done, whole=True, plan=plan)
            self._remove(table, quotes, done, whole=False, plan=plan)
        return done

    def _logs(self, asset: str = INFERENCE_LOG.asset) -> list[str]:
        return [table for table in self._lake.tables() if table.rpartition(".")[2] == asset]

    def _requests(self, table: str) -> Iterator[str]:
        """The requests that are the subject's."""
        import pyarrow.compute as pc

        columns = ["request_id", "requester", "request_json", "response_json"]
        for batch in self._batches(table, columns):
            if self._subject.requester is not None:
                found = pc.equal(batch["requester"], self._subject.requester)
            else:
                found = self._speaking(batch, columns[2:])
            yield from batch.filter(pc.fill_null(found, False))["request_id"].to_pylist()

    def _questions(self) -> Iterator[str]:
        import pyarrow.compute as pc

        for table in self._logs():
            for batch in self._batches(table, ["requester", "request_json"]):
                ours = pc.fill_null(pc.equal(batch["requester"], self._subject.requester), False)
                for body in batch.filter(ours)["request_json"].to_pylist():
                    yield from _asked(body)

    def _rows(self, table: str, requests: frozenset[str]) -> list[str]:
        """The keys of all rows of these requests, shadows of them too, that are not blank yet."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted, keys = pa.array(sorted(requests), pa.string()), []
        for batch in self._batches(table, ["invocation_id", "request_id", "shadow_of", *_BLANK]):
            ours = pc.or_kleene(
                pc.is_in(batch["request_id"], wanted), pc.fill_null(pc.is_in(batch["shadow_of"], wanted), False)
            )
            if self._subject.requester is None:
                blank = pc.and_kleene(*(pc.equal(batch[name], FORGOTTEN_BODY) for name in _BLANK))
                ours = pc.and_kleene(ours, pc.invert(pc.fill_null(blank, False)))
            keys += batch.filter(ours)["invocation_id"].to_pylist()
        return keys

    def _judgements(self, table: str, requests: frozenset[str]) -> tuple[list[str], list[str]]:
        """The keys of feedback that goes, and of feedback whose words go."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted, whole, quotes = pa.array(sorted(requests), pa.string()), [], []
        for batch in self._batches(table, ["feedback_id", "request_id", "source_id", "rationale"]):
            if self._subject.requester is not None:
                ours = pc.or_kleene(
                    pc.is_in(batch["request_id"], wanted), pc.equal(batch["source_id"], self._subject.requester)
                )
                whole += batch.filter(pc.fill_null(ours, False))["feedback_id"].to_pylist()
            else:
                quoting = pc.fill_null(self._speaking(batch, ["rationale"], raw=True), False)
                quotes += batch.filter(quoting)["feedback_id"].to_pylist()
        return whole, quotes

    def _speaking(self, batch: Any, columns: Sequence[str], *, raw: bool = False) -> Any:
        """Which rows hold one of the subject's words in one of these columns."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pa.array([False] * batch.num_rows)
        texts = self._subject.words if raw else self._subject.in_bodies
        for column in columns:
            for text in texts:
                found = pc.or_kleene(found, pc.fill_null(pc.match_substring(batch[column], text), False))
        return found

    def _batches(self, table: str, columns: list[str]) -> Iterator[Any]:
        yield from self._lake.dataset(table)[0].to_batches(columns=columns, batch_size=4096)

    def _remove(self, table: str, keys: list[str], done: Erased, *, whole: bool, plan: bool) -> None:
        """Delete or blank these rows, and end the table's history, also where a crash came before that."""
        counted = done.deleted if whole else done.blanked
        if keys:
            counted[table] = len(keys)
        if plan:
            return
        blanked = None if whole else {"rationale": "NULL"} if table.endswith(FEEDBACK.asset) else _BLANK
        for attempt in range(_ATTEMPTS):
            try:
                if keys:
                    self._lake.erase(table, keys, blanked)
                self._lake.purge(table)
                return
            except ConflictError:  # the drainer committed first
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_S)

    def _bury(self) -> int:
        """Take the subject's records out of the dead letters; tells how many."""
        gone = 0
        folder = self._state.root / "dead-letters"
        for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not self._is_subject(line)]
            if len(kept) < len(lines):
                gone += len(lines) - len(kept)
                _rewrite(path, b"".join(kept))
        return gone

    def _is_subject(self, line: bytes) -> bool:
        try:
            body = str(orjson.loads(line)["record"]).encode()
        except (orjson.JSONDecodeError, KeyError, TypeError):
            body = line
        return any(needle in body for needle in self._subject.in_records)


def _asked(body: str | None) -> Iterator[str]:
    """The questions of a logged body, where they are long enough to tell."""
    try:
        messages = orjson.loads(body or "{}")["messages"]
        texts = [message["content"] for message in messages if message["role"] == "user"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return
    for text in texts:
        if isinstance(text, str) and len(text) >= _QUESTION_CHARS:
            yield text[:_QUESTION_CHARS]


def _rewrite(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data, mode=0o600)
    except OSError as error:
        raise StorageError(
            f"dead letters cannot be rewritten: {os.strerror(error.errno or 0)}", where=str(path)
        ) from error

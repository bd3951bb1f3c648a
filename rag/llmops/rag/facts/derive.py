"""Which facts every document of a refresh has by its headings and by a model, at the least number of calls.

Each reply is kept durably as soon as it is there, under a hash of what was asked, so that nothing is asked twice, not
even after a kill. A document whose reply cannot be had stays without those facts and is tried again later. Knows the
manifest; what is asked, and what a reply says, its neighbours know.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from llmops.core.errors import LlmopsError
from llmops.core.secret import resolve_secret
from llmops.rag import records
from llmops.rag.facts.declared import UnreadableReplyError
from llmops.rag.facts.patterns import FactPatterns
from llmops.rag.ingest.progress import Meter

if TYPE_CHECKING:
    from llmops.rag.document import Parsed
    from llmops.rag.facts.asking import Asked, Extractor
    from llmops.rag.facts.config import ExtractionConfig, FactsConfig
    from llmops.rag.ingest.progress import Progress
    from llmops.rag.manifest import Manifest

_log = logging.getLogger("llmops.rag.ingest")
_HOPELESS = 5
"""Calls that fail in a row, with none that succeeds, before the rest of a refresh is left for the next one."""
_RETRY_S = 60.0
_LONGEST_RETRY_S = 86_400.0
_DUE = 1.0
_MANY = 500
_MOST_HEADINGS = 2000


@dataclass(frozen=True, slots=True)
class Row:
    """What is on record of one document. `retry_at`: 0 where nothing is left to ask; 1: with the next refresh."""

    document: int
    facts: str
    reply: bytes | None
    attempts: int = 0
    retry_at: float = 0.0


@dataclass
class Tally:
    """What the questions of a refresh came to. `left`: documents for which `max_calls` did not suffice."""

    asked: int = 0
    cached: int = 0
    dropped: int = 0
    failed: int = 0
    left: int = 0
    tokens: int = 0
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Derived:
    """The rows to record with the next head. `changed`: a reader could see the difference."""

    rows: list[Row] = field(default_factory=list)
    changed: bool = False


@dataclass(frozen=True, slots=True)
class _Stale:
    """A document whose facts are not those of the recipe. `key`: of its reply."""

    document: int
    headings: dict[str, Any]
    key: bytes | None
    before: str
    attempts: int


class Deriving:
    """The facts of one generation under one configuration; used by one thread, under the ingest lock."""

    def __init__(self, manifest: Manifest, generation: int, config: FactsConfig, progress: Progress) -> None:
        self._manifest = manifest
        self._generation = generation
        self._config = config
        self._recipe = config.recipe
        self._patterns = FactPatterns(config.headings)
        self._failed: set[bytes] = set()
        self._had: set[bytes] = set()
        self._is_down = False
        self.meter = Meter("facts", progress)
        self.tally = Tally()
        if config.llm is not None and config.llm.api_key is not None:
            resolve_secret(config.llm.api_key)  # before anything is embedded

    def derive(self, but: Collection[int] = ()) -> Derived:
        """The facts of every document that lacks them.

        Args:
            but: documents that are about to go.
        """
        stale = [one for one in self._stale() if one.document not in but]
        keys = list(dict.fromkeys(one.key for one in stale if one.key is not None))
        replies = self._replies(keys)
        self.tally.cached += len(replies.keys() - self._had)
        wanted = {one.key: one.document for one in reversed(stale) if one.key is not None and one.key not in replies}
        if wanted and self._config.llm is not None:
            replies |= self._ask(self._config.llm, wanted)
        self._had.update(replies)
        derived = Derived()
        for one in stale:
            row = self._row(one, replies)
            derived.rows.append(row)
            derived.changed = derived.changed or row.facts != one.before
        self.tally.left = sum(row.retry_at == _DUE for row in derived.rows)
        return derived

    def keys(self, parsed: Iterable[Parsed]) -> Iterator[bytes]:
        """What names the replies to these documents."""
        return (key for one in parsed if (key := self._key(one)) is not None)

    def to_ask(self, keys: Collection[bytes], but: Collection[int]) -> int:
        """How many replies are missing, of these and of those to documents that the index holds, less some of them."""
        held = (one.key for one in self._stale() if one.document not in but and one.key is not None)
        wanted = {*keys, *held}
        return len(wanted) - len(self._replies(list(wanted)))

    def _stale(self) -> Iterator[_Stale]:
        if not self._recipe:
            for document, before in self._manifest.query(_SUPERFLUOUS, (self._generation,)):
                yield _Stale(document, {}, None, before, 0)
            return
        for document, before, attempts in self._manifest.query(_STALE, (self._generation, self._recipe, time.time())):
            parsed = records.parsed_of(self._manifest, document)
            yield _Stale(document, self._headings(parsed), self._key(parsed), before, attempts)

    def _headings(self, parsed: Parsed) -> dict[str, Any]:
        if not self._config.headings:
            return {}
        from llmops.rag.outline import outline

        headings = [heading.path[-1] for heading in outline(parsed).headings[:_MOST_HEADINGS] if heading.path]
        return self._patterns.read(*dict.fromkeys([*([parsed.title] if parsed.title else []), *headings]))

    def _key(self, parsed: Parsed) -> bytes | None:
        if self._config.llm is None:
            return None
        from llmops.rag.facts.asking import key_of

        return key_of(self._config.llm, parsed)

    def _row(self, stale: _Stale, replies: dict[bytes, str]) -> Row:
        said = {} if stale.key is None else json.loads(replies.get(stale.key, "{}"))
        facts = records.metadata_json({**said, **stale.headings})
        if stale.key is None or stale.key in replies:
            return Row(stale.document, facts, stale.key)
        if stale.key not in self._failed:
            return Row(stale.document, facts, None, stale.attempts, _DUE)
        wait_s = min(_RETRY_S * 2.0 ** min(stale.attempts, 20), _LONGEST_RETRY_S)
        return Row(stale.document, facts, None, stale.attempts + 1, time.time() + wait_s)

    def _replies(self, keys: list[bytes]) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        for start in range(0, len(keys), _MANY):
            some = keys[start : start + _MANY]
            marks = ",".join("?" * len(some))
            found.update(self._manifest.query(f"SELECT key, facts FROM replies WHERE key IN ({marks})", some))  # noqa: S608 - marks
        return found

    def _ask(self, config: ExtractionConfig, wanted: dict[bytes, int]) -> dict[bytes, str]:
        """Ask for what is missing, some side by side; each reply is committed before the next is waited for."""
        from llmops.rag.facts.asking import Extractor

        left = 0 if self._is_down else config.max_calls - self.tally.asked
        waiting = [key for key in reversed(wanted) if key not in self._failed][:left]
        self.meter.total = self.meter.done + len(waiting)
        replies: dict[bytes, str] = {}
        extractor = Extractor(config)
        running: dict[Future[Asked], bytes] = {}
        in_a_row = 0
        try:
            with ThreadPoolExecutor(config.at_once, thread_name_prefix="llmops-facts") as pool:
                for key in waiting:
                    running[self._begin(pool, extractor, wanted[key])] = key
                    while len(running) >= config.at_once:
                        in_a_row = self._collect(running, replies, in_a_row)
                    if in_a_row >= _HOPELESS and not replies:
                        self._is_down = True
                        _log.warning(
                            "the model answers nothing (%s); facts wait for the next refresh", self.tally.reason
                        )
                        break
                while running:
                    in_a_row = self._collect(running, replies, in_a_row)
        finally:
            extractor.close()
            self.meter.end()
        return replies

    def _begin(self, pool: ThreadPoolExecutor, extractor: Extractor, document: int) -> Future[Asked]:
        from llmops.core.chain import ChainContext

        self.tally.asked += 1
        return pool.submit(extractor.ask, records.parsed_of(self._manifest, document), ChainContext())

    def _collect(self, running: dict[Future[Asked], bytes], replies: dict[bytes, str], in_a_row: int) -> int:
        """Take in what has come; tells how many calls have failed in a row."""
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            key = running.pop(future)
            self.meter.add()
            try:
                asked = future.result()
            except (LlmopsError, UnreadableReplyError) as error:
                self._failed.add(key)
                self.tally.failed += 1
                self.tally.reason = error.what if isinstance(error, LlmopsError) else str(error)
                in_a_row += 1
                continue
            in_a_row = 0
            replies[key] = self._keep(key, asked)
        return in_a_row

    def _keep(self, key: bytes, asked: Asked) -> str:
        facts = records.metadata_json(asked.stated.facts)
        self.tally.dropped += asked.stated.dropped
        self.tally.tokens += asked.tokens
        with self._manifest.transaction():
            self._manifest.db.execute(
                "INSERT INTO replies VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING", (key, facts, asked.stated.dropped)
            )
        return facts


_STALE = """
SELECT d.id, coalesce(x.facts, '{}'), coalesce(x.attempts, 0) FROM documents d LEFT JOIN derived x ON x.document = d.id
WHERE d.generation = ? AND (coalesce(x.recipe, '') <> ? OR (x.retry_at > 0 AND x.retry_at <= ?)) ORDER BY d.id
"""
_SUPERFLUOUS = "SELECT document, facts FROM derived WHERE generation = ? AND recipe <> '' ORDER BY document"


def record(manifest: Manifest, generation: int, recipe: str, rows: Iterable[Row]) -> None:
    """Write what is known of documents now; call it in a transaction."""
    manifest.db.executemany(
        "INSERT INTO derived VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (document) DO UPDATE SET"
        " recipe = excluded.recipe, facts = excluded.facts, reply = excluded.reply, attempts = excluded.attempts, "
        "retry_at = excluded.retry_at",
        [(r.document, generation, recipe, r.facts, r.reply, r.attempts, r.retry_at) for r in rows],
    )


def drop_unused_replies(manifest: Manifest, *, spare: int = 0) -> None:
    """Forget the replies that no document has any more, if they are more than so many."""
    unused = "key NOT IN (SELECT reply FROM derived WHERE reply IS NOT NULL)"
    if manifest.query(f"SELECT count(*) FROM replies WHERE {unused}")[0][0] > spare:  # noqa: S608 - a constant
        with manifest.transaction():
            manifest.db.execute(f"DELETE FROM replies WHERE {unused}")  # noqa: S608 - a constant

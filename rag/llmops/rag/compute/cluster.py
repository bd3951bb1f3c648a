"""The refreshing machine's side of a cluster: hands tables of work over, and believes none of the answers unseen.

Knows what is handed over and what must come back; how an engine carries it is told in `ray` and `spark`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from llmops.core.confined import BrokenFrameError
from llmops.core.errors import IntegrityError, UnavailableError
from llmops.rag.compute.stages import DOCUMENTS, RESULTS, TEXTS, Embed, Parse
from llmops.rag.document import Parsed, RefusedDocumentError, Rejected, SourceItem
from llmops.rag.parse import wire
from llmops.rag.parse.pool import ParserPool

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from llmops.rag.arena import Vectors
    from llmops.rag.compute import Parsers
    from llmops.rag.config import ComputeConfig, IndexConfig
    from llmops.rag.ingest.pipeline import Embedder

_DOCUMENTS_A_TASK = 16
_TASKS_A_SLOT = 8
"""Tasks handed over at once, a slot: enough that a slow document leaves nobody idle."""
_TEXTS_A_TASK = 128
_FEW_DOCUMENTS = 32
_FEW_TEXTS = 64
"""So many are done here sooner than a cluster starts."""
_PROBE = "All machines must make the same vector of this."

Stage = Callable[[pa.Table], pa.Table]


class Engine(Protocol):
    """A running cluster."""

    @property
    def slots(self) -> int:
        """Tasks that it carries out at once."""
        ...

    def map(self, tables: list[pa.Table], stage: Stage) -> Iterator[pa.Table]:
        """Apply the stage to each table, on whatever machine, and give the `RESULTS` as they come.

        Raises:
            UnavailableError: the cluster gave up.
        """
        ...

    def close(self) -> None: ...


class Elsewhere:
    """The cluster of a configuration, met when there is enough to do."""

    scale = 16

    def __init__(self, config: IndexConfig, open_embedder: Callable[[], Embedder]) -> None:
        self._config = config
        self._open_embedder = open_embedder
        # Opened in a thread that lives as long: Ray's processes end with the thread that started them.
        self._keeper = ThreadPoolExecutor(1, "llmops-cluster")
        self._engine: Engine | None = None
        self.embedder = cache(self._embedder)

    def engine(self) -> Engine:
        """The running cluster; parsing and embedding ask for it from their own threads.

        Raises:
            UnavailableError: there is none to be had.
        """
        return self._keeper.submit(self._opened).result()

    def _opened(self) -> Engine:
        if self._engine is None:
            self._engine = _open_engine(self._config.compute)
        return self._engine

    def parsers(self) -> AbstractContextManager[Parsers]:
        return nullcontext(ClusterParsers(self.engine, self._config))

    def _embedder(self) -> Embedder:
        return ClusterEmbedder(self.engine, self._open_embedder)

    def close(self) -> None:
        if self._engine is not None:
            self._keeper.submit(self._engine.close).result()
        self._keeper.shutdown()


def _open_engine(config: ComputeConfig) -> Engine:
    if config.engine == "ray":
        from llmops.rag.compute.ray import Ray

        return Ray(config)
    from llmops.rag.compute.spark import Spark

    return Spark(config)


class ClusterParsers:
    """Parses documents on the cluster; a few, as a small edit leaves, here."""

    def __init__(self, engine: Callable[[], Engine], config: IndexConfig) -> None:
        self._engine = engine
        self._config = config.parsing
        self._stage = Parse(config.parsing)

    def parse(self, items: Iterable[SourceItem]) -> Generator[tuple[SourceItem, Parsed | Rejected], None, None]:
        """Parse documents, some hundred at a time: memory holds their texts.

        Raises:
            UnavailableError: the cluster gave up, or its machines do not see the documents.
            IntegrityError: it answered nonsense.
        """
        source = iter(items)
        first = list(islice(source, _FEW_DOCUMENTS + 1))
        if len(first) <= _FEW_DOCUMENTS:
            with ParserPool(self._config) as pool:
                yield from pool.parse(first)
            return
        engine, source = self._engine(), chain(first, source)
        while some := list(islice(source, engine.slots * _TASKS_A_SLOT * _DOCUMENTS_A_TASK)):
            rows = [_handed_over(n, item) for n, item in enumerate(some)]
            tables = _cut(pa.Table.from_pylist(rows, DOCUMENTS), _DOCUMENTS_A_TASK)
            for number, told, body in _answers(engine, tables, self._stage, len(some)):
                yield some[number], _outcome(some[number], told, body)


def _handed_over(number: int, item: SourceItem) -> dict[str, Any]:
    root = str(Path(item.place.root).absolute())
    return {"n": number, "path": item.path, "root": root, "inside": item.place.inside, "size": item.size}


def _outcome(item: SourceItem, told: dict[str, Any], body: bytes) -> Parsed | Rejected:
    if "unseen" in told:
        if Path(item.place.root, item.place.inside).exists():
            raise UnavailableError(
                f"the machine {told['where']} does not see a document that lies here",
                where=str(Path(item.place.root, item.place.inside)),
                hint="keep the documents on storage that all machines of the cluster share",
            )
        return RefusedDocumentError("unreadable").as_rejected(item.uri)
    try:
        answer = wire.unpack(told, body)
    except BrokenFrameError as error:
        return Rejected(item.uri, f"the parser answered nonsense: {error}", "crashed")
    return answer if isinstance(answer, Parsed) else answer.as_rejected(item.uri)


class ClusterEmbedder:
    """Embeds on the cluster; a few texts, as a small edit leaves, here."""

    def __init__(self, engine: Callable[[], Engine], open_embedder: Callable[[], Embedder]) -> None:
        self._engine = engine
        self._here = open_embedder()
        self.fingerprint = self._here.fingerprint
        expected = self._here.embed([_PROBE])[0]
        self._stage = Embed(open_embedder, self.fingerprint, _PROBE, expected.tobytes())
        self._dimension = len(expected)

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> Vectors:
        """See `ingest.pipeline.Embedder`.

        Raises:
            UnavailableError: the cluster gave up, or one of its machines cannot embed as this one does.
            IntegrityError: it answered nonsense.
        """
        if len(texts) <= _FEW_TEXTS:
            return self._here.embed(texts, on_batch)
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        # UTF-8 has no halves of surrogate pairs; the tokenizer replaces them in the same way.
        words = [texts[n].encode("utf-8", "replace").decode() for n in order]
        tables = _cut(pa.table({"n": order, "text": words}, schema=TEXTS), _TEXTS_A_TASK)
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        for number, told, body in _answers(self._engine(), tables, self._stage, len(texts)):
            if "error" in told:
                raise UnavailableError(
                    f"the machine {told['where']} cannot embed: {told['error']}", where="compute", hint=told.get("hint")
                )
            vectors[number] = np.frombuffer(body, dtype=np.float32)
            if on_batch is not None:
                on_batch(1)
        return vectors


def _cut(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, len(table), rows)]


def _answers(
    engine: Engine, tables: list[pa.Table], stage: Stage, expected: int
) -> Iterator[tuple[int, dict[str, Any], bytes]]:
    """One answer for each number from 0 on.

    Raises:
        IntegrityError: one is missing, comes twice, or is none of ours.
    """
    left = set(range(expected))
    for table in engine.map(tables, stage):
        for row in table.select(RESULTS.names).to_pylist():
            if row["n"] not in left:
                raise IntegrityError("the cluster answered what it was not asked", where=f"row {row['n']}")
            left.discard(row["n"])
            yield row["n"], json.loads(row["told"]), row["body"]
    if left:
        raise IntegrityError(f"the cluster left {len(left):,} of {expected:,} rows unanswered", where="compute")

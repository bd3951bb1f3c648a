"""Documents to vectors, as a stream: parse and chunk in one thread, embed in the next, hand over to the writer.

Each stage runs a bounded number of items ahead of the one after it, so that parser processes, the embedder (which
releases the interpreter lock) and the disk work at once, in bounded memory. Knows no store and commits nothing:
`writer` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llmops.rag.document import Parsed, Rejected, SourceItem
from llmops.rag.ingest.ahead import ahead
from llmops.rag.ingest.chunk import chunk
from llmops.rag.manifest import Manifest
from llmops.rag.records import StagedDocument, chunk_ids, parsed_of, slots_of, vector_key

if TYPE_CHECKING:
    from llmops.rag.arena import Vectors
    from llmops.rag.compute import Compute
    from llmops.rag.config import IndexConfig
    from llmops.rag.ingest.plan import Work
    from llmops.rag.ingest.progress import Meter

WINDOW_CHARS = 300_000
WINDOW_TEXTS = 1024
"""Embedded and then committed together: some seconds of work, which is what a kill may cost; enough to sort by length,
and for the embedder to take its way for long jobs."""
WINDOW_CHUNKS = 4096
_DOCUMENTS_AHEAD = 64


class Embedder(Protocol):
    """Turns texts into unit vectors. `fingerprint` names everything that could change them."""

    @property
    def fingerprint(self) -> str: ...

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> Vectors:
        """One float32 row of norm 1 a text, in the order of the texts; `on_batch` is told how many more are done."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """What the writer commits at once: new vectors first, then the documents that need them."""

    documents: list[StagedDocument]
    rejected: list[tuple[SourceItem, Rejected]]
    keys: list[bytes]
    vectors: Vectors | None


@dataclass(frozen=True, slots=True)
class Cut:
    """A document after chunking, with the texts that no cached vector serves."""

    staged: StagedDocument
    missing: dict[bytes, str]


@dataclass
class Stages:
    """The first two stages of one refresh.

    Attributes:
        manifest: a connection of the parsing thread's own.
        compute: who parses and embeds.
        in_flight: vector keys on their way to the manifest; the writer takes them out once they are committed.
    """

    config: IndexConfig
    manifest: Manifest
    fingerprint: str
    compute: Compute
    parsing: Meter
    embedding: Meter
    in_flight: set[bytes] = field(default_factory=set)

    def run(self, work: Work) -> Iterator[Batch]:
        """Give batches in an order in which every vector comes no later than the documents that need it."""
        cut = ahead(self.cut(work), room=_DOCUMENTS_AHEAD, name="llmops-parse")
        return ahead(self._embed(cut), room=1, name="llmops-embed")

    def cut(self, work: Work) -> Iterator[Cut | tuple[SourceItem, Rejected]]:
        """Parse and chunk everything a refresh has to; also the whole of `--plan`."""
        for item, document in work.reuse():
            yield self._cut_one(item, parsed_of(self.manifest, document), work)
        if not work.count["parse"]:
            return
        with self.compute.parsers() as pool:
            for item, outcome in pool.parse(work.parse()):
                if isinstance(outcome, Rejected):
                    self.parsing.add()
                    yield item, outcome
                else:
                    yield self._cut_one(item, outcome, work)

    def _cut_one(self, item: SourceItem, parsed: Parsed, work: Work) -> Cut:
        began = time.monotonic()
        passages = chunk(parsed, self.config.chunking)
        texts = [passage.indexed_text for passage in passages]
        keys = [vector_key(text, self.fingerprint) for text in texts]
        # In flight first, manifest second: what the writer commits in between is found by the second look.
        unseen = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.in_flight}
        cached = slots_of(self.manifest, list(unseen))
        missing = {key: text for key, text in unseen.items() if key not in cached}
        self.in_flight.update(missing)
        self.parsing.add(seconds=time.monotonic() - began)
        staged = StagedDocument(item, work.racy(item.mtime_ns), parsed, passages, chunk_ids(item.uri, texts), keys)
        return Cut(staged, missing)

    def _embed(self, cuts: Iterable[Cut | tuple[SourceItem, Rejected]]) -> Iterator[Batch]:
        for window in _windows(cuts, self.compute):
            if not window.missing:
                yield Batch(window.documents, window.rejected, [], None)
                continue
            texts = list(window.missing.values())
            embedder = self.compute.embedder()
            began = time.monotonic()
            vectors = embedder.embed(texts, self.embedding.add)
            self.embedding.add(0, time.monotonic() - began)
            yield Batch(window.documents, window.rejected, list(window.missing), vectors)


@dataclass
class _Window:
    documents: list[StagedDocument] = field(default_factory=list)
    rejected: list[tuple[SourceItem, Rejected]] = field(default_factory=list)
    missing: dict[bytes, str] = field(default_factory=dict)
    chars: int = 0
    chunks: int = 0


def _windows(cuts: Iterable[Cut | tuple[SourceItem, Rejected]], compute: Compute) -> Iterator[_Window]:
    """Gather documents until enough is to be embedded; a long document's texts go ahead of it in several windows."""
    window = _Window()
    for cut in cuts:
        if isinstance(cut, tuple):
            window.rejected.append(cut)
            continue
        for key, text in cut.missing.items():
            window.missing[key] = text
            window.chars += len(text)
            if window.chars >= WINDOW_CHARS * compute.scale or len(window.missing) >= WINDOW_TEXTS * compute.scale:
                yield window
                window = _Window()
        window.documents.append(cut.staged)
        window.chunks += len(cut.staged.passages)
        if window.chunks >= WINDOW_CHUNKS:
            yield window
            window = _Window()
    if window.documents or window.rejected or window.missing:
        yield window

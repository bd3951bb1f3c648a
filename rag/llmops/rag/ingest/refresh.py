"""The refresh: after it, the index equals its documents, whatever happened before; its cost follows what changed.

Holds the lock, decides what has to run, and keeps the fast path fast: where no document changed, nothing beyond the
manifest is imported. The stages are `plan` (compare), `pipeline` (parse, chunk, embed) and `writer` (commit);
`recovery` undoes a kill.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llmops.core.ids import digest
from llmops.rag import records
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.facts.derive import Derived, Deriving, Tally, record
from llmops.rag.index import places
from llmops.rag.ingest import removal
from llmops.rag.ingest.generation import Chosen, choose
from llmops.rag.ingest.look import Found, look
from llmops.rag.ingest.plan import Known, Work, compare, refuse_mass_removal
from llmops.rag.ingest.progress import Meter, Progress, silent
from llmops.rag.ingest.recovery import lost_vectors, recover
from llmops.rag.manifest import CURRENT, EMBED_RATE, Head, Manifest, Quarantined
from llmops.rag.tombstones import tombstones

if TYPE_CHECKING:
    from llmops.core.state import StateConfig
    from llmops.rag.config import IndexConfig
    from llmops.rag.ingest.pipeline import Embedder
    from llmops.rag.ingest.writer import Writer, Written

_RETRY_S = 60.0
_LONGEST_RETRY_S = 86_400.0


@dataclass(frozen=True)
class Options:
    """How to refresh.

    Attributes:
        full: parse every document again; vectors of known texts are still taken from the cache.
        embedder: in place of the one that the configuration names.
        allow_mass_delete: remove documents, however many.
    """

    full: bool = False
    allow_mass_delete: bool = False
    embedder: Embedder | None = None
    progress: Progress = silent


@dataclass(frozen=True)
class Refresh:
    """What a refresh did. Counts are of documents, except `chunks`, `embedded` and `reused` (cached) vectors.

    `facts`: what a model was asked of the documents.
    """

    index: str
    head: Head
    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    quarantined: tuple[Quarantined, ...] = ()
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    rebuilt: int = 0
    facts: Tally = field(default_factory=Tally)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops ingest --json` prints them."""
        counts = {
            name: getattr(self, name)
            for name in (
                "added",
                "changed",
                "renamed",
                "removed",
                "unchanged",
                "chunks",
                "embedded",
                "reused",
                "rebuilt",
            )
        }
        return {
            "index": self.index,
            "generation": self.head.generation,
            "seq": self.head.seq,
            "digest": self.head.digest,
            **counts,
            "facts": self.facts.as_json(),
            "quarantined": [{"uri": q.uri, "code": q.code, "reason": q.reason} for q in self.quarantined],
            "seconds": {phase: round(seconds, 4) for phase, seconds in self.seconds.items()},
        }


def refresh(config: IndexConfig, state: StateConfig, options: Options | None = None) -> Refresh:
    """Make the index equal its documents.

    Raises:
        ConflictError: another process refreshes this index, or most of its documents would go.
        NotFoundError: a source is not there; the index stays as it is.
        UnavailableError: a remote one does not answer; the index stays as it is.
        StorageError: the disk is full or refuses; the old head stays.
    """
    options = options or Options()
    began = time.monotonic()
    chosen = choose(config, state, options.embedder)
    with Manifest.writing(state, config.name, create=True) as manifest:
        done = _Run(config, state, options, chosen, manifest).run()
    done.seconds["total"] = time.monotonic() - began
    return done


class _Run:
    """One refresh under the lock."""

    def __init__(
        self, config: IndexConfig, state: StateConfig, options: Options, chosen: Chosen, manifest: Manifest
    ) -> None:
        self.config = config
        self.state = state
        self.options = options
        self.chosen = chosen
        self.manifest = manifest
        self.generation = manifest.add_generation(chosen.name, chosen.settings)
        self.lost = 0
        self.facts = Deriving(manifest, self.generation, config.facts, options.progress)
        self.seconds: dict[str, float] = {}

    def run(self) -> Refresh:
        doubtful = recover(self.manifest)
        interrupted = self.generation in doubtful
        self.lost = lost_vectors(self.manifest, self.generation, self.chosen.embedder_fingerprint)
        head = self.manifest.head(self.generation)
        known = known_of(self.manifest, self.generation, self.config)
        began = time.monotonic()
        remembered = _nothing if self.options.full else known.document
        with look(self.config.sources, self.state, known.tombstones, remembered) as found:
            work = self._compare(found, known, began)
            removals = removal.elsewhere(self.manifest, found, known.tombstones, but=self.generation)
            if not self.options.allow_mass_delete:
                refuse_mass_removal(work, self.config.most_removed)
                removal.refuse_mass_removal(removals, known.tombstones, self.config.most_removed)
            # First: what has to go must not wait until the rest is embedded.
            behind = places.behind(self.manifest)
            removal.carry_out(self.manifest, removals, (doubtful | behind) - {self.generation})
            if head is not None and work.is_empty and not interrupted and self._store_is_whole(head):
                derived = self.facts.derive()
                if not derived.changed:
                    return self._unchanged(head, known, work, derived)
            return self._changed(head, known, work, certain=not interrupted)

    def _compare(self, found: Found, known: Known, began: float) -> Work:
        meter = Meter("scan", self.options.progress)
        work = compare(found, known, full=self.options.full)
        meter.add(work.known + work.to_read)
        meter.end()
        self.seconds["scan"] = time.monotonic() - began
        return work

    def _store_is_whole(self, head: Head) -> bool:
        if places.kept_of(self.manifest, self.chosen.name).config != self.config.store:
            return False
        place = places.place_of(self.manifest, self.chosen.name)
        stamp = places.stamp_of(self.manifest, self.chosen.name)
        return place.is_whole(stamp) and places.follows(self.manifest, self.chosen.name, head)

    def _unchanged(self, head: Head, known: Known, work: Work, derived: Derived) -> Refresh:
        """The fast path: record what no reader sees, and only if it differs."""
        quarantine = quarantine_of(work, [], known)
        if work.count["touched"] or derived.rows or quarantine != list(known.quarantine.values()):
            with self.manifest.transaction():
                record(self.manifest, self.generation, self.config.facts.recipe, derived.rows)
                records.touch(self.manifest, _touched(work))
                self.manifest.replace_quarantine(self.generation, quarantine)
        self.manifest.set_fact(CURRENT, self.chosen.name)
        return Refresh(
            self.config.name,
            head,
            unchanged=work.unchanged,
            quarantined=tuple(quarantine),
            chunks=head.chunks,
            facts=self.facts.tally,
            seconds=self.seconds,
        )

    def _changed(self, head: Head | None, known: Known, work: Work, *, certain: bool) -> Refresh:
        from llmops.rag.compute import open_compute
        from llmops.rag.ingest.compaction import compact
        from llmops.rag.ingest.pipeline import Stages
        from llmops.rag.ingest.writer import Changes, Target, Writer

        progress = self.options.progress
        parsing = Meter("parse", progress, work.to_read)
        embedding = Meter("embed", progress)
        target = Target(self.generation, self.chosen.name, self.chosen.embedder_fingerprint, head, self.config.store)
        writer = Writer(self.manifest, target, Meter("write", progress))
        reading = self.manifest.again()
        compute = open_compute(self.config, self.chosen.open_embedder)
        stages = Stages(self.config, reading, self.chosen.embedder_fingerprint, compute, parsing, embedding)
        tally = _Tally(known, work)
        try:
            self._stream(stages, work, writer, tally, certain=certain)
            going = {document for _, document in work.removed()}.union(writer.replaced())
            changes = Changes(
                removed=(document for _, document in work.removed()),
                relabelled=work.relabelled(),
                touched=_touched(work),
                visible=bool(work.count["relabelled"] or work.count["removed"]),
                quarantine=quarantine_of(work, tally.rejected, known),
                facts={CURRENT: self.chosen.name, **_rate(embedding)},
                derived=self.facts.derive(but=going),
                recipe=self.config.facts.recipe,
            )
            new_head = writer.commit(changes, force=self.lost > 0)
        finally:
            compute.close()
            writer.close()
            reading.close()
        for meter in (parsing, embedding, self.facts.meter, writer.meter):
            meter.end()
            self.seconds[meter.phase] = meter.seconds
        assert new_head is not None
        new_head = compact(self.manifest, self.generation, self.chosen.embedder_fingerprint) or new_head
        self.manifest.db.checkpoint()
        done = tally.result(self.config.name, new_head, writer, embedding.done, tuple(changes.quarantine), self.seconds)
        return replace(done, facts=self.facts.tally)

    def _stream(self, stages: Any, work: Work, writer: Writer, tally: _Tally, *, certain: bool) -> None:
        """Run the stages; the store opens here while the embedder loads in its thread."""
        batches = stages.run(work)
        try:
            writer.begin(certain=certain)
            for batch in batches:
                tally.take(writer.write(batch), batch.rejected)
                stages.in_flight.difference_update(batch.keys)
        finally:
            batches.close()


class _Tally:
    """Counts documents by what became of them."""

    def __init__(self, known: Known, work: Work) -> None:
        self._known = known
        self._work = work
        self.rejected: list[tuple[SourceItem, Rejected]] = []
        self._same = 0
        self._added = 0
        self._changed = work.count["relabelled"]

    def take(self, written: Written, rejected: list[tuple[SourceItem, Rejected]]) -> None:
        self._added += written.added
        self._changed += written.changed
        self._same += len(written.same)
        for item, document in written.same:
            self._work.add("touched", item.uri, document)
        for item, _ in rejected:
            stat = self._known.document(item.uri)
            if stat is not None:
                self._work.add("removed", item.uri, stat.id)
        self.rejected += rejected

    def result(
        self,
        name: str,
        head: Head,
        writer: Writer,
        embedded: int,
        quarantine: tuple[Quarantined, ...],
        seconds: dict[str, float],
    ) -> Refresh:
        renamed = self._work.renamed
        removed = self._work.count["removed"] - renamed
        return Refresh(
            *(name, head, self._added - renamed, self._changed, renamed, removed),
            unchanged=self._work.unchanged + self._same,
            quarantined=quarantine,
            chunks=head.chunks,
            embedded=embedded,
            reused=max(0, writer.chunks - embedded),
            rebuilt=writer.store.rebuilt,
            seconds=seconds,
        )


def _nothing(_: str) -> None:
    """Of no document is known what it held: every one is read again."""


def known_of(manifest: Manifest, generation: int, config: IndexConfig) -> Known:
    """What the manifest holds, to compare the sources with."""
    limits = digest(config.parsing.model_dump(exclude={"workers"}))[:16]
    return Known(manifest, generation, manifest.quarantine(generation), limits, tombstones(manifest))


def quarantine_of(work: Work, refused: list[tuple[SourceItem, Rejected]], known: Known) -> list[Quarantined]:
    """The quarantine after a refresh: what still waits, what the sources refused, and what was tried and failed."""
    rows = {held.uri: held for held in work.waiting}
    for found in work.rejected:
        rows[found.uri] = Quarantined(found.uri, found.reason, found.code, 1, 0.0, None, None, known.limits)
    for item, found in refused:
        before = known.quarantine.get(item.uri)
        same = before is not None and (before.size, before.mtime_ns) == (item.size, item.mtime_ns)
        attempts = before.attempts + 1 if before is not None and same else 1
        wait = min(_RETRY_S * 2 ** (attempts - 1), _LONGEST_RETRY_S)
        place = (item.size, item.mtime_ns, known.limits)
        rows[item.uri] = Quarantined(item.uri, found.reason, found.code, attempts, time.time() + wait, *place)
    return [rows[uri] for uri in sorted(rows)]


def _touched(work: Work) -> Iterator[tuple[SourceItem, int, bool]]:
    return ((item, document, work.racy(item.mtime_ns)) for item, document in work.touched())


def _rate(embedding: Meter) -> dict[str, str]:
    """How fast this machine embeds, remembered for the next plan; small runs say too little."""
    if embedding.done < 64 or embedding.seconds <= 0:
        return {}
    return {EMBED_RATE: f"{embedding.done / embedding.seconds:.1f}"}

"""What a refresh would do and how long it would take, without doing it: `llmops ingest --plan`.

Parses and chunks what changed, since only that tells how much is to be embedded. Writes nothing and takes no lock.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmops.core.errors import NotFoundError
from llmops.rag.compute import Here
from llmops.rag.facts.derive import Deriving
from llmops.rag.ingest.generation import choose
from llmops.rag.ingest.look import look
from llmops.rag.ingest.pipeline import Cut, Stages
from llmops.rag.ingest.plan import Known, Work, compare
from llmops.rag.ingest.progress import Meter
from llmops.rag.ingest.refresh import Options, known_of
from llmops.rag.ingest.removal import elsewhere
from llmops.rag.manifest import EMBED_RATE, Manifest
from llmops.rag.tombstones import tombstones

if TYPE_CHECKING:
    from llmops.core.state import StateConfig
    from llmops.rag.config import IndexConfig
    from llmops.rag.document import Rejected, SourceItem

_WRITE_S = 0.002
"""Seconds a chunk for everything but parsing and embedding."""


@dataclass(frozen=True)
class Forecast:
    """Uris of documents by what would become of them; `renamed` maps the new uri to the old.

    Attributes:
        new_generation: the settings changed: everything is built anew beside the index in use.
        chunks: chunks that would be written, of which `to_embed` need a vector that is not cached.
        elsewhere: by older generation, how many documents would leave it, or be shown to others.
        to_ask: replies of the model of `index.facts` that are missing, of which `calls` would be asked for now.
        seconds: estimate by the embedding rate of the last refresh; None where this machine has embedded nothing yet.
    """

    index: str
    generation: str
    new_generation: bool
    added: tuple[str, ...]
    changed: tuple[str, ...]
    renamed: dict[str, str]
    removed: tuple[str, ...]
    quarantined: dict[str, str]
    unchanged: int
    chunks: int
    to_embed: int
    seconds: float | None
    elsewhere: dict[str, int]
    to_ask: int = 0
    calls: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops ingest --plan --json` prints them."""
        return asdict(self)


def forecast(config: IndexConfig, state: StateConfig, options: Options | None = None) -> Forecast:
    """Plan the refresh that `refresh` with the same arguments would do now.

    Raises:
        NotFoundError: a source is not there.
    """
    options = options or Options()
    chosen = choose(config, state, options.embedder)
    try:
        manifest = Manifest.open(state, config.name)
    except NotFoundError:
        manifest = Manifest.empty()
    with closing(manifest), look(config.sources, state, tombstones(manifest)) as found:
        number = {name: number for number, name in manifest.generations()}.get(chosen.name, 0)
        known = known_of(manifest, number, config)
        work = compare(found, known, full=options.full)
        removals = elsewhere(manifest, found, known.tombstones, but=number)
        parsing = Meter("parse", options.progress, work.to_read)
        stages = Stages(
            config,
            manifest,
            chosen.embedder_fingerprint,
            Here(config, chosen.open_embedder),
            parsing,
            Meter("embed", options.progress),
        )
        facts = Deriving(manifest, number, config.facts, options.progress)
        planned = _Planned(known, work, facts)
        for cut in stages.cut(work):
            planned.take(cut)
        parsing.end()
        rate = manifest.fact(EMBED_RATE)
        is_new = manifest.head(number) is None
        to_ask = facts.to_ask(planned.keys, planned.going())
        seconds = planned.seconds(None if rate is None else float(rate))
        return Forecast(
            *(config.name, chosen.name, is_new, tuple(sorted(planned.added)), tuple(sorted(planned.changed))),
            *(dict(work.renames()), planned.removed(), planned.quarantined(), work.unchanged),
            *(planned.chunks, planned.to_embed, seconds),
            elsewhere={one.name: len(one.gone) + len(one.closed) for one in removals},
            to_ask=to_ask,
            calls=min(to_ask, config.facts.llm.max_calls) if config.facts.llm else 0,
        )


class _Planned:
    """Sorts documents by what would become of them."""

    def __init__(self, known: Known, work: Work, facts: Deriving) -> None:
        self._known = known
        self._work = work
        self._facts = facts
        self._replaced: set[int] = set()
        self._former = {former for _, former in work.renames()}
        self._new_names = {uri for uri, _ in work.renames()}
        self._refused: dict[str, str] = {}
        self.added: list[str] = []
        self.changed = [item.uri for item, _ in work.relabelled()]
        self.keys: set[bytes] = set()
        self.chunks = 0
        self.to_embed = 0

    def take(self, cut: Cut | tuple[SourceItem, Rejected]) -> None:
        if isinstance(cut, tuple):
            self._refused[cut[0].uri] = cut[1].reason
            return
        uri = cut.staged.item.uri
        self.chunks += len(cut.staged.passages)
        self.to_embed += len(cut.missing)
        self.keys.update(self._facts.keys([cut.staged.parsed]))
        stat = self._known.document(uri)
        if stat is not None:
            self._replaced.add(stat.id)
            self.changed.append(uri)
        elif uri not in self._new_names:
            self.added.append(uri)

    def removed(self) -> tuple[str, ...]:
        gone = {uri for uri, _ in self._work.removed()} | {uri for uri in self._refused if self._is_known(uri)}
        return tuple(sorted(gone - self._former))

    def going(self) -> set[int]:
        """The ids of the documents that are about to be replaced, or to go."""
        return self._replaced.union(document for _, document in self._work.removed())

    def quarantined(self) -> dict[str, str]:
        listed = {q.uri: q.reason for q in self._work.waiting} | {r.uri: r.reason for r in self._work.rejected}
        return listed | self._refused

    def seconds(self, rate: float | None) -> float | None:
        """How long it would take, by how many texts were embedded a second here; None where none were."""
        if rate is None:
            return None if self.to_embed else self.chunks * _WRITE_S
        return self.chunks * _WRITE_S + self.to_embed / rate

    def _is_known(self, uri: str) -> bool:
        return self._known.document(uri) is not None

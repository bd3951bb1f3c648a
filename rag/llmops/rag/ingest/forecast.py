"""What a refresh would do and how long it would take, without doing it: `llmops ingest --plan`.

Parses and chunks what changed, since only that tells how much is to be embedded. Writes nothing and takes no lock.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmops.core.errors import NotFoundError
from llmops.rag.compute import Here
from llmops.rag.ingest.generation import choose
from llmops.rag.ingest.look import look
from llmops.rag.ingest.pipeline import Cut, Stages
from llmops.rag.ingest.plan import Known, Work, compare
from llmops.rag.ingest.progress import Meter
from llmops.rag.ingest.refresh import Options, known_of
from llmops.rag.ingest.removal import elsewhere
from llmops.rag.manifest import EMBED_RATE, Manifest

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
    with closing(manifest), look(config.sources, state) as found:
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
        planned = _Planned(known, work)
        for cut in stages.cut(work):
            planned.take(cut)
        parsing.end()
        rate = manifest.fact(EMBED_RATE)
        is_new = manifest.head(number) is None
        seconds = planned.seconds(None if rate is None else float(rate))
        return Forecast(
            *(config.name, chosen.name, is_new, tuple(sorted(planned.added)), tuple(sorted(planned.changed))),
            *(dict(work.renames()), planned.removed(), planned.quarantined(), work.unchanged),
            *(planned.chunks, planned.to_embed, seconds),
            elsewhere={one.name: len(one.gone) + len(one.closed) for one in removals},
        )


class _Planned:
    """Sorts documents by what would become of them."""

    def __init__(self, known: Known, work: Work) -> None:
        self._known = known
        self._work = work
        self._former = {former for _, former in work.renames()}
        self._new_names = {uri for uri, _ in work.renames()}
        self._refused: dict[str, str] = {}
        self.added: list[str] = []
        self.changed = [item.uri for item, _ in work.relabelled()]
        self.chunks = 0
        self.to_embed = 0

    def take(self, cut: Cut | tuple[SourceItem, Rejected]) -> None:
        if isinstance(cut, tuple):
            self._refused[cut[0].uri] = cut[1].reason
            return
        uri = cut.staged.item.uri
        self.chunks += len(cut.staged.passages)
        self.to_embed += len(cut.missing)
        if self._is_known(uri):
            self.changed.append(uri)
        elif uri not in self._new_names:
            self.added.append(uri)

    def removed(self) -> tuple[str, ...]:
        gone = {uri for uri, _ in self._work.removed()} | {uri for uri in self._refused if self._is_known(uri)}
        return tuple(sorted(gone - self._former))

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

"""What a refresh would do and how long it would take, without doing it: `llmops ingest --plan`.

Parses and chunks what changed, since only that tells how much is to be embedded. Writes nothing and takes no lock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmops.core.errors import NotFoundError
from llmops.rag.compute import Here
from llmops.rag.facts.derive import Deriving
from llmops.rag.ingest.generation import choose
from llmops.rag.ingest.pipeline import Stages
from llmops.rag.ingest.plan import compare, look
from llmops.rag.ingest.progress import Meter
from llmops.rag.ingest.refresh import Options, known_of
from llmops.rag.ingest.removal import elsewhere
from llmops.rag.manifest import EMBED_RATE, Manifest

if TYPE_CHECKING:
    from llmops.core.state import StateConfig
    from llmops.rag.config import IndexConfig

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
    try:
        number = {name: number for number, name in manifest.generations()}.get(chosen.name, 0)
        head = manifest.head(number)
        known = known_of(manifest, number, config)
        listed = look(config.sources, state, known.tombstones)
        work = compare(listed, known, full=options.full)
        removals = elsewhere(manifest, listed, known.tombstones, but=number)
        parsing = Meter("parse", options.progress, len(work.parse) + len(work.reuse))
        stages = Stages(
            config,
            manifest,
            chosen.embedder_fingerprint,
            Here(config, chosen.open_embedder),
            parsing,
            Meter("embed", options.progress),
        )
        added, changed, refused, chunks, to_embed = [], [item.uri for item in work.relabelled], {}, 0, 0
        facts = Deriving(manifest, number, config.facts, options.progress)
        keys: set[bytes] = set()
        for cut in stages.cut(work):
            if isinstance(cut, tuple):
                refused[cut[0].uri] = cut[1].reason
                continue
            uri = cut.staged.item.uri
            chunks += len(cut.staged.passages)
            to_embed += len(cut.missing)
            keys.update(facts.keys([cut.staged.parsed]))
            if uri in known.documents:
                changed.append(uri)
            elif uri not in work.renamed:
                added.append(uri)
        parsing.end()
        going = {known.documents[uri].id for uri in (*changed, *work.removed) if uri in known.documents}
        to_ask = facts.to_ask(keys, going)
        rate = manifest.fact(EMBED_RATE)
    finally:
        manifest.close()
    quarantined = {q.uri: q.reason for q in work.waiting} | {r.uri: r.reason for r in work.rejected} | refused
    gone = {*work.removed, *(uri for uri in refused if uri in known.documents)} - set(work.renamed.values())
    seconds = None if rate is None and to_embed else chunks * _WRITE_S + (to_embed / float(rate) if rate else 0.0)
    return Forecast(
        *(config.name, chosen.name, head is None, tuple(sorted(added)), tuple(sorted(changed)), work.renamed),
        *(tuple(sorted(gone)), quarantined, work.unchanged, chunks, to_embed, seconds),
        elsewhere={one.name: len(one.gone) + len(one.closed) for one in removals},
        to_ask=to_ask,
        calls=min(to_ask, config.facts.llm.max_calls) if config.facts.llm else 0,
    )

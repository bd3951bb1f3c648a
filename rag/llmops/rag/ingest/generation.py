"""Which generation a configuration means: all that decides what chunks and vectors a document has, as one name.

Two refreshes with the same parser, chunker, settings and embedder go into one generation; anything else starts
another beside it. Light: the embedder itself is opened only when something has to be embedded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llmops.core.ids import digest
from llmops.rag.ingest.chunk import CHUNKER_VERSION
from llmops.rag.parse import parse

if TYPE_CHECKING:
    from llmops.core.state import StateConfig
    from llmops.rag.config import IndexConfig
    from llmops.rag.ingest.pipeline import Embedder

LAYOUT_VERSION = 1
"""Rises whenever chunk ids or vector keys would be reckoned differently."""


@dataclass(frozen=True)
class Chosen:
    """A generation, and how to open its embedder. `settings`: what the name is a hash of, and the embedder's spec."""

    name: str
    settings: dict[str, Any]
    embedder_fingerprint: str
    open_embedder: Callable[[], Embedder]


def choose(config: IndexConfig, state: StateConfig, embedder: Embedder | None) -> Chosen:
    """The generation of a configuration.

    Args:
        embedder: in place of the one that the configuration names.
    """
    spec: dict[str, Any] | None = None
    if embedder is None:
        fingerprint, spec, opener = _configured(config, state)
    else:
        fingerprint, opener = embedder.fingerprint, partial(_given, embedder)
    decisive = {
        "layout": LAYOUT_VERSION,
        "parser": parse.fingerprint(config.parsing),
        "chunker": CHUNKER_VERSION,
        "chunking": config.chunking.model_dump(),
        "embedder": fingerprint,
    }
    settings = {**decisive, "embedder_spec": spec}
    return Chosen(digest(decisive)[:16], settings, fingerprint, opener)


def _configured(config: IndexConfig, state: StateConfig) -> tuple[str, dict[str, Any], Callable[[], Embedder]]:
    from llmops.rag.embed import open_embedder, resolve

    spec = resolve(config.embedding, state.cache)
    opener = partial(open_embedder, spec, state.cache, batch_tokens=config.embedding.batch_tokens)
    return spec.fingerprint, asdict(spec), opener


def _given(embedder: Embedder) -> Embedder:
    return embedder

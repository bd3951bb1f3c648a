"""Texts to unit vectors, by the fastest backend that is exact on this machine.

`resolve` decides what embeds (and is cheap once it has), `open_embedder` opens it. Knows models and backends; it does
not know chunks, caches of vectors, or indexes.
"""

from llmops.rag.embed.select import open_embedder, resolve
from llmops.rag.embed.spec import Embedder, EmbedderSpec

__all__ = ["Embedder", "EmbedderSpec", "open_embedder", "resolve"]

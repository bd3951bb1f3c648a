"""Where documents are parsed and texts embedded: in this process, or on the machines of a Ray or Spark cluster.

The stages of a refresh are the same everywhere, and so is what comes out; only who carries out the two costly ones
differs. Nothing is started before there is something to do. Knows neither manifest nor store: what is committed is
decided and written on the machine that refreshes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Protocol

from llmops.rag.document import Parsed, Rejected, SourceItem

if TYPE_CHECKING:
    from llmops.rag.config import IndexConfig
    from llmops.rag.ingest.pipeline import Embedder


class Parsers(Protocol):
    """What parses documents; see `parse.pool.ParserPool`, which does it here."""

    def parse(self, items: Iterable[SourceItem]) -> Generator[tuple[SourceItem, Parsed | Rejected], None, None]:
        """Give each document back once, parsed or refused, as soon as it is done."""
        ...


class Compute(Protocol):
    """What carries out the costly stages of one refresh."""

    @property
    def scale(self) -> int:
        """How many times the work of one machine is worth handing over at once."""
        ...

    def parsers(self) -> AbstractContextManager[Parsers]: ...

    def embedder(self) -> Embedder: ...

    def close(self) -> None:
        """End what was started; a cluster that was there before stays."""
        ...


class Here:
    """This machine: parser processes, and the embedder in this one."""

    scale = 1

    def __init__(self, config: IndexConfig, open_embedder: Callable[[], Embedder]) -> None:
        self._config = config
        self.embedder = cache(open_embedder)

    def parsers(self) -> AbstractContextManager[Parsers]:
        from llmops.rag.parse.pool import ParserPool

        return ParserPool(self._config.parsing)

    def close(self) -> None:
        """Nothing outlives its stage."""


def open_compute(config: IndexConfig, open_embedder: Callable[[], Embedder]) -> Compute:
    """What the configuration names; cheap, since a cluster is met only when it is needed."""
    if config.compute.engine == "local":
        return Here(config, open_embedder)
    from llmops.rag.compute.cluster import Elsewhere

    return Elsewhere(config, open_embedder)

"""Parses many documents at once, each under limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

from llmops.rag.config import ParsingConfig
from llmops.rag.document import Parsed, RefusedDocumentError, Rejected, SourceItem
from llmops.rag.parse.extracted import Limits
from llmops.rag.parse.parse import parse_file


class ParserPool:
    """Parses documents; a document that cannot be parsed costs only itself."""

    def __init__(self, config: ParsingConfig) -> None:
        self._limits = Limits(config.max_bytes, config.max_text_chars)

    def __enter__(self) -> ParserPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every parser process."""

    def parse(self, items: Iterable[SourceItem]) -> Iterator[tuple[SourceItem, Parsed | Rejected]]:
        """Parse documents and give each back as soon as it is done, in any order."""
        for item in items:
            try:
                yield item, parse_file(item.path, self._limits)
            except RefusedDocumentError as refusal:
                yield item, refusal.as_rejected(item.uri)

"""What a server needs of whoever keeps indexes: their documents, to look at, to delete and to restore.

Serving knows no index; whoever starts a server hands over the desk where that is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmops.core.identity import Principal
from llmops.registry.audit.entries import Origin


class IndexDesk(Protocol):
    """Answers are plain JSON values. Each method may take as long as the index is large."""

    def listing(self, index: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """A page of documents; `wanted`: match, state, group, after, limit."""
        ...

    def inspect(self, index: str, uri: str) -> dict[str, Any]:
        """One document as it was cut, or why it was refused."""
        ...

    def delete(
        self, index: str, uris: Sequence[str], *, reason: str, plan: bool, by: tuple[Principal, Origin | None]
    ) -> dict[str, Any]:
        """Take documents out, under somebody's rights and on record."""
        ...

    def restore(
        self, index: str, uris: Sequence[str], *, plan: bool, by: tuple[Principal, Origin | None]
    ) -> dict[str, Any]:
        """Let documents come back with the next refresh."""
        ...

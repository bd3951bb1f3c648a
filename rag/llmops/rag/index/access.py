"""Who may see which rows, and which rows a filter wants: decided once a request, before anything is scored.

Knows access lists and metadata of documents. Documents with equal access lists are judged once, whatever their number;
a filter looks its values up instead of walking the documents, since every one may have a date and an author of its own.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import UserError, did_you_mean
from llmops.core.identity import Principal
from llmops.rag.index.facts import Facts
from llmops.rag.index.types import Mask
from llmops.rag.records import merged


class Access:
    """The labels of every row of one snapshot."""

    def __init__(self, labels: Sequence[tuple[str, ...]], documents: NDArray[np.int64], live: Mask) -> None:
        """Take labels by document and documents by row.

        Args:
            labels: (access list, source's metadata, parser's metadata, derived facts) of each document, as JSON.
            documents: by row, the place of its document in `labels`; -1 where the row is dead.
        """
        lists: dict[str, int] = {}
        self._list_of = np.array([lists.setdefault(acl, len(lists)) for acl, *_ in labels], dtype=np.int64)
        self._lists = [frozenset(json.loads(acl)) for acl in lists]
        self._facts = Facts(_metadata(labels))
        self._documents = documents
        self._live = live

    def mask(self, principal: Principal, filters: Mapping[str, Any]) -> Mask | None:
        """The rows to search; None where that is every live row.

        Args:
            filters: metadata by name; a list admits any of its values, `{"from": ..., "to": ...}` a range.

        Raises:
            UserError: no document that this principal may read has a fact of that name, or a range is none.
        """
        may = self._may(principal)
        if not filters and may.all():
            return None
        readable = self._readable(may)
        chosen = readable
        for name, wanted in filters.items():
            self._check_name(name, readable)
            chosen = chosen & self._facts.matching(name, wanted)
        if chosen.all():
            return None
        mask: Mask = np.append(chosen, False)[self._documents] & self._live
        return mask

    def values(self, principal: Principal, names: Iterable[str], most: int) -> dict[str, list[Hashable]]:
        """Some values of each fact, the commonest first, as far as this principal may read a document that has them."""
        readable = self._readable(self._may(principal))
        return {name: self._facts.commonest(name, readable, most) for name in names}

    def _may(self, principal: Principal) -> Mask:
        """Which access lists admit a principal."""
        return np.array([principal.reads(groups) for groups in self._lists], dtype=np.bool_)

    def _readable(self, may: Mask) -> Mask:
        """Which documents have a list that admits."""
        return may[self._list_of] if len(may) else np.zeros(0, dtype=np.bool_)

    def _check_name(self, name: str, readable: Mask) -> None:
        if readable.any() and not self._facts.has(name, readable):
            known = [other for other in self._facts.names if self._facts.has(other, readable)]
            raise UserError(f"no document has the metadata `{name}`", hint=did_you_mean(name, known))


def _metadata(labels: Sequence[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """The metadata of each document; equal ones are read once and shared."""
    read: dict[tuple[str, ...], dict[str, Any]] = {}
    for _, *texts in labels:
        facts = tuple(texts)
        held = read.get(facts)
        if held is None:
            held = read[facts] = merged(*facts)
        yield held

"""Who may see which rows, and which rows a filter wants: decided once a request, before anything is scored.

Knows access lists and metadata of documents. Documents with equal labels are judged once, whatever their number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import UserError, did_you_mean
from llmops.core.identity import Principal
from llmops.rag.index.types import Mask
from llmops.rag.records import merged


@dataclass(frozen=True, slots=True)
class _Labels:
    acl: frozenset[str]
    metadata: dict[str, Any]


class Access:
    """The labels of every row of one snapshot."""

    def __init__(self, labels: Sequence[tuple[str, str, str]], documents: NDArray[np.int64], live: Mask) -> None:
        """Take labels by document and documents by row.

        Args:
            labels: (access list, source's metadata, parser's metadata) of each document, as JSON.
            documents: by row, the place of its document in `labels`; -1 where the row is dead.
        """
        classes: dict[tuple[str, str, str], int] = {}
        codes = np.array([classes.setdefault(label, len(classes)) for label in labels], dtype=np.int64)
        self._classes = [_Labels(frozenset(json.loads(acl)), merged(facts, parsed)) for acl, facts, parsed in classes]
        self._rows = np.where(documents >= 0, codes[documents] if len(codes) else -1, -1)
        self._live = live

    def mask(self, principal: Principal, filters: Mapping[str, Any]) -> Mask | None:
        """The rows to search; None where that is every live row.

        Args:
            filters: metadata by name; a list admits any of its values.

        Raises:
            UserError: no document that this principal may read has a fact of that name.
        """
        readable = [principal.reads(labels.acl) for labels in self._classes]
        _check_names(filters, [labels for labels, may in zip(self._classes, readable, strict=True) if may])
        chosen = [
            may and _matches(labels.metadata, filters) for labels, may in zip(self._classes, readable, strict=True)
        ]
        if all(chosen):
            return None
        mask: Mask = np.append(np.array(chosen, dtype=np.bool_), False)[self._rows] & self._live
        return mask


def _check_names(filters: Mapping[str, Any], readable: Sequence[_Labels]) -> None:
    known = {name for labels in readable for name in labels.metadata}
    for name in filters:
        if name not in known and readable:
            raise UserError(f"no document has the metadata `{name}`", hint=did_you_mean(name, known))


def _matches(metadata: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    for name, wanted in filters.items():
        if name not in metadata:
            return False
        admitted = wanted if isinstance(wanted, list | tuple | set | frozenset) else (wanted,)
        if metadata[name] not in admitted:
            return False
    return True

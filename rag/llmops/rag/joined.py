"""Several indexes asked as one: each by its own embedder, under its own access lists, then judged together.

The best passages of every index are pooled and their scores standardised: word scores over the whole pool, cosines over
the passages of one embedder, since those of two embedders do not compare. An index that has nothing to say then loses,
however well its best passage does among its own. Knows retrievers and their passages; opens no index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmops.core.errors import NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.core.tracing import span
from llmops.rag.config import RetrievalConfig
from llmops.rag.refine import CrossScores, refine, wanted, widen
from llmops.rag.retrieve import (
    Documents,
    Found,
    Retrieved,
    Retriever,
    Scores,
    SearchIndex,
    StoredDocument,
    standardised,
)
from llmops.rag.wording import alike

_POOLED = 3
"""Times as many passages as are wanted in the end are taken from each index."""


@dataclass(frozen=True)
class Member:
    """One of the indexes.

    Args:
        embedder: its fingerprint; cosines of one embedder compare.
        weight: 1 is neutral; a passage of twice the weight is as good as one whose score is ln 2 deviations higher.
    """

    name: str
    retriever: Retriever
    reader: Callable[[], SearchIndex]
    embedder: str
    weight: float = 1.0


class JoinedRetriever:
    """Asks all members; takes a `Retriever`'s place. The first member's embedder is that of the answer."""

    def __init__(self, members: Sequence[Member], config: RetrievalConfig, cross: CrossScores | None = None) -> None:
        self.config = config
        self._members = tuple(members)
        self._cross = cross

    def retrieve(
        self,
        question: str,
        principal: Principal,
        filters: Mapping[str, Any] | None = None,
        config: RetrievalConfig | None = None,
    ) -> Retrieved:
        """See `Retriever.retrieve`. An index that has no fact of a filter's name has nothing to give.

        Raises:
            UserError: none of them has it.
        """
        config = config or self.config
        plain = RetrievalConfig(
            top_k=min(200, _POOLED * wanted(config)), pool=config.pool, dense_weight=config.dense_weight
        )
        made: list[tuple[Member, Retrieved]] = []
        refused: UserError | None = None
        for member in self._members:
            with span(f"index {member.name}"):
                try:
                    made.append((member, member.retriever.retrieve(question, principal, filters, plain)))
                except UserError as error:
                    refused = error
        if not made:
            assert refused is not None
            raise refused
        with span("fuse"):
            ranked = _distinct(_judged(made, config.dense_weight))[: wanted(config)]
        passages = refine(question, ranked, config, self._cross)
        documents = _documents(made, passages)
        if config.expand != "none":
            passages = widen(passages, config.expand, documents, principal)
        heads = [found for _, found in made]
        generation = "+".join(found.generation for found in heads)
        return Retrieved(question, heads[0].vector, passages, generation, sum(h.index_seq for h in heads), documents)

    def joined(self) -> JoinedIndex:
        """The members as they are now, for opening documents and for the values of facts."""
        return JoinedIndex([member.reader() for member in self._members])


class JoinedDocuments:
    """The documents of several indexes."""

    def __init__(self, indexes: Sequence[Documents], place: Mapping[str, Documents]) -> None:
        """Take the indexes, the first first, and which of them a found document is from."""
        self._indexes = tuple(indexes)
        self._place = place

    def document(self, uri: str, principal: Principal) -> StoredDocument:
        """A document, from the index that it was found in; else from the first in which this principal may read it.

        Raises:
            NotFoundError: none holds it for this principal.
        """
        if uri in self._place:
            return self._place[uri].document(uri, principal)
        for index in self._indexes:
            try:
                return index.document(uri, principal)
            except NotFoundError:
                continue
        raise NotFoundError("there is no such document", where=uri)


class JoinedIndex(JoinedDocuments):
    """As much of a `SearchIndex` as a chain needs beside its retriever. It is not searched."""

    def __init__(self, indexes: Sequence[SearchIndex]) -> None:
        super().__init__(indexes, {})
        self._searched = tuple(indexes)

    def values(self, principal: Principal, names: Iterable[str], most: int) -> dict[str, list[Hashable]]:
        """Some values of each fact, of all indexes."""
        names = list(names)
        found = [index.values(principal, names, most) for index in self._searched]
        return {name: list(dict.fromkeys(value for one in found for value in one[name]))[:most] for name in names}


def _judged(made: Sequence[tuple[Member, Retrieved]], dense_weight: float) -> list[Found]:
    """Every passage with its score among all of them, best first."""
    pool = [(member, passage) for member, found in made for passage in found.passages]
    if not pool:
        return []
    lexical = standardised(np.array([passage.lexical for _, passage in pool], dtype=np.float32))
    dense = np.zeros(len(pool), dtype=np.float32)
    for embedder in {member.embedder for member, _ in pool}:
        places = [place for place, (member, _) in enumerate(pool) if member.embedder == embedder]
        dense[places] = standardised(np.array([pool[place][1].dense for place in places], dtype=np.float32))
    scores: Scores = dense_weight * dense + (1.0 - dense_weight) * lexical
    judged = [
        replace(passage, score=float(score) + math.log(member.weight), index=member.name)
        for (member, passage), score in zip(pool, scores, strict=True)
    ]
    return sorted(judged, key=lambda passage: -passage.score)


def _distinct(passages: Sequence[Found]) -> list[Found]:
    """Without copies; of a document that several indexes hold, only the passages of the one that found it best."""
    home: dict[str, str | None] = {}
    kept: list[Found] = []
    for passage in passages:
        if home.setdefault(passage.chunk.uri, passage.index) != passage.index:
            continue
        if not any(alike(passage.chunk.text, other.chunk.text) for other in kept):
            kept.append(passage)
    return kept


def _documents(made: Sequence[tuple[Member, Retrieved]], passages: Sequence[Found]) -> JoinedDocuments:
    by_name = {member.name: found.index for member, found in made}
    place = {passage.chunk.uri: by_name[passage.index] for passage in passages if passage.index is not None}
    return JoinedDocuments([found.index for _, found in made], place)

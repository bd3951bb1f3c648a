"""What happens to the best passages before they are answered from: judged again, freshened, spread, widened.

Each step is off unless it is configured: a cross-encoder reads question and passage together; newer documents gain;
passages that say the same give way to others; a passage grows to its page, or to the text around it. Knows passages and
their documents; it searches nothing, and every document is opened as its reader may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from llmops.core.errors import LlmopsError
from llmops.core.identity import Principal
from llmops.rag.config import FreshnessConfig, RetrievalConfig
from llmops.rag.lexical import analyze

if TYPE_CHECKING:
    from llmops.rag.retrieve import Chunk, Documents, Found, StoredDocument

CrossScores = Callable[[str, Sequence[str]], NDArray[np.float32]]
"""Scores of (question, passage) pairs, higher is better."""

_AROUND_CHARS = 1200
_DAY_S = 86_400.0


def wanted(config: RetrievalConfig) -> int:
    """How many passages the steps want to choose from."""
    most = config.rerank.pool if config.rerank else 0
    return max(config.top_k, most, 3 * config.top_k if config.diversity or config.freshness else 0)


def refine(
    question: str, found: Sequence[Found], config: RetrievalConfig, cross: CrossScores | None = None
) -> tuple[Found, ...]:
    """The passages in their new order, `top_k` of them."""
    passages = list(found)
    if cross is not None and passages:
        scores = cross(question, [_read(passage.chunk) for passage in passages])
        passages = [replace(passage, score=float(score)) for passage, score in zip(passages, scores, strict=True)]
    if config.freshness is not None:
        passages = [replace(one, score=one.score + _freshness(one.chunk, config.freshness)) for one in passages]
    passages.sort(key=lambda passage: -passage.score)
    if config.diversity:
        passages = _spread(passages, config.diversity, config.top_k)
    return tuple(passages[: config.top_k])


def widen(found: Sequence[Found], how: str, index: Documents, principal: Principal) -> tuple[Found, ...]:
    """Each passage grown to its page, or to the paragraphs around it; what lies in one that was grown before goes."""
    kept: list[Found] = []
    for passage in found:
        chunk = cast(Any, passage.chunk)
        try:
            document = index.document(chunk.uri, principal)
        except LlmopsError:  # gone since the search: the passage stays as it was found
            kept.append(passage)
            continue
        start, end = _page(document, chunk) if how == "page" and document.pages else _around(document.text, chunk)
        if any(one.chunk.uri == chunk.uri and one.chunk.start <= chunk.start < one.chunk.end for one in kept):
            continue
        kept.append(replace(passage, chunk=replace(chunk, start=start, end=end, text=document.text[start:end])))
    return tuple(kept)


def _read(chunk: Chunk) -> str:
    heading = " ".join((chunk.context or chunk.title or "").split())
    return f"{heading}\n{chunk.text}" if heading else chunk.text


def _freshness(chunk: Chunk, config: FreshnessConfig) -> float:
    """What a document gains: `weight` when it is new, half of it after each half-life; none where no date is known."""
    moment = _moment(getattr(chunk, "metadata", {}).get(config.field))
    if moment is None:
        return 0.0
    days = max(0.0, (datetime.now(UTC) - moment).total_seconds() / _DAY_S)
    return float(config.weight * 0.5 ** (days / config.half_life_days))


def _moment(value: Any) -> datetime | None:
    try:
        moment = (
            datetime.fromtimestamp(value, tz=UTC) if isinstance(value, int | float) else datetime.fromisoformat(value)
        )
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _spread(passages: list[Found], diversity: float, count: int) -> list[Found]:
    """Maximal marginal relevance over shared words (Carbonell and Goldstein, SIGIR 1998, equation 1)."""
    scores = np.array([passage.score for passage in passages])
    spread = float(np.ptp(scores)) or 1.0
    relevance = (scores - scores.min()) / spread
    terms = [frozenset(analyze(passage.chunk.text)) for passage in passages]
    left, chosen = list(range(len(passages))), list[int]()
    while left and len(chosen) < count:
        best = max(
            left,
            key=lambda one: (
                (1 - diversity) * relevance[one]
                - diversity * max((_overlap(terms[one], terms[other]) for other in chosen), default=0.0)
            ),
        )
        left.remove(best)
        chosen.append(best)
    return [passages[place] for place in chosen]


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def _page(document: StoredDocument, chunk: Chunk) -> tuple[int, int]:
    page = next((page for page in document.pages if page.start <= chunk.start < page.end), None)
    return (page.start, page.end) if page is not None else (chunk.start, chunk.end)


def _around(text: str, chunk: Chunk) -> tuple[int, int]:
    """The span with the whole paragraphs before and after it, as far as they reach into the limit."""
    first, last = max(0, chunk.start - _AROUND_CHARS), min(len(text), chunk.end + _AROUND_CHARS)
    if first:
        line = text.find("\n\n", first, chunk.start)
        first = line + 2 if line >= 0 else chunk.start
    if last < len(text):
        line = text.rfind("\n\n", chunk.end, last)
        last = line if line >= 0 else chunk.end
    return first, last

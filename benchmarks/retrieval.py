"""How good retrieval and citations are, on public questions with answer keys, by the real ingest and the real chain.

Side by side in one run: fused scores (the product), dense only, BM25 only, and reciprocal rank fusion of both.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import question_sets
from benchmarks.question_sets import Corpus, Question
from llmops.core.chain import ChainContext, Citation, Done, Retrieval
from llmops.rag.answer.prompt import DEFAULT_PROMPT
from llmops.rag.config import AnswerConfig, RetrievalConfig
from llmops.rag.embed import open_embedder
from llmops.rag.index import open_index
from llmops.rag.packaging import assemble
from llmops.rag.retrieve import rank

SETTINGS = RetrievalConfig()
BUDGET_CHARS = 4000
BARS = {"scifact": 0.725, "musique_100": 0.67, "chunk_eval": 0.83, "xquad_en": 0.90}
HOLDS = "a cited passage holds the answer"
METHODS = ("fused", "dense", "BM25", "RRF")


@dataclass(frozen=True)
class Opened:
    """A corpus with everything that searches it."""

    corpus: Corpus
    reader: Callable[[], Any]
    embedder: Any
    close: Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One measured value: by method, on all questions and on the half that chose no setting."""

    corpus: str
    measure: str
    method: str
    every: float
    held_out: float
    bar: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(BARS), default=list(BARS))
    parser.add_argument("--limit", type=int, default=10**9, help="questions of each corpus, to try the program")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    data = question_sets.data_folder()
    if data is None:
        print("Skipped: LLMOPS_DATA names no folder with the question sets.")
        return
    rows = [row for name in chosen.only for row in measure(data, name, chosen.limit)]
    print(json.dumps([row.__dict__ for row in rows], indent=1) if chosen.json else table(rows))


def measure(data: Path, name: str, limit: int) -> list[Row]:
    """Everything about one corpus."""
    corpus = question_sets.load(data, name)
    question_sets.ingest(corpus)
    opened = _open(corpus)
    questions = corpus.questions[:limit]
    try:
        if name == "xquad_en":
            return [*_ranked(opened, questions), *_answered(opened, questions)]
        return _covered(opened, questions) if name == "chunk_eval" else _ranked(opened, questions)
    finally:
        opened.close()


def _open(corpus: Corpus) -> Opened:
    index = open_index(corpus.state, corpus.index.name)
    embedder = open_embedder(index.reader().embedder_spec, corpus.state.cache)
    return Opened(corpus, index.reader, embedder, index.close)


def _ranked(opened: Opened, questions: Sequence[Question]) -> list[Row]:
    """nDCG@10 of documents, each as good as its best chunk."""
    values: dict[str, list[float]] = {method: [] for method in METHODS}
    reader = opened.reader()
    for question in questions:
        for method, rows in _rankings(opened, question.text).items():
            documents = list(dict.fromkeys(Path(chunk.uri).stem for chunk in reader.chunks(rows)))
            values[method].append(_ndcg(documents, question.relevant))
    bar = None if opened.corpus.name == "xquad_en" else BARS[opened.corpus.name]  # its bar is on citations
    return _rows(opened.corpus.name, "nDCG@10", values, bar)


def _rankings(opened: Opened, question: str) -> dict[str, Any]:
    """The rows of each method, best first."""
    reader = opened.reader()
    vector = opened.embedder.embed_query(question)
    dense = reader.dense(vector, SETTINGS.pool, None).rows
    lexical = reader.lexical(question).top(SETTINGS.pool)[0]
    fused = rank(reader, question, vector, None, SETTINGS).rows
    return {"fused": fused, "dense": dense, "BM25": lexical, "RRF": _reciprocal_ranks(dense, lexical)}


def _reciprocal_ranks(*rankings: Any) -> Any:
    """Cormack, Clarke and Buettcher, SIGIR 2009, k = 60."""
    scores: Counter[int] = Counter()
    for ranking in rankings:
        for place, row in enumerate(ranking, 1):
            scores[int(row)] += 1 / (60 + place)  # type: ignore[assignment]
    return np.array([row for row, _ in scores.most_common()], dtype=np.int64)


def _ndcg(documents: Sequence[str], relevant: frozenset[str]) -> float:
    gained = sum(1 / math.log2(place + 2) for place, name in enumerate(documents[:10]) if name in relevant)
    return gained / sum(1 / math.log2(place + 2) for place in range(min(10, len(relevant))))


def _covered(opened: Opened, questions: Sequence[Question]) -> list[Row]:
    """The share of the key's characters that lie in the best chunks, as many as the budget holds."""
    values: dict[str, list[float]] = {method: [] for method in METHODS}
    reader = opened.reader()
    for question in questions:
        wanted = {(name, place) for name, start, end in question.spans for place in range(start, end)}
        for method, rows in _rankings(opened, question.text).items():
            held: set[tuple[str, int]] = set()
            left = BUDGET_CHARS
            for chunk in reader.chunks(rows[:40]):
                end = min(chunk.end, chunk.start + left)
                held.update((Path(chunk.uri).stem, place) for place in range(chunk.start, end))
                left -= end - chunk.start
            values[method].append(len(wanted & held) / len(wanted))
    return _rows(opened.corpus.name, f"recall at {BUDGET_CHARS} characters", values, BARS["chunk_eval"])


def _answered(opened: Opened, questions: Sequence[Question]) -> list[Row]:
    """What the quoting answerer cites, against the gold answers."""
    configuration = {
        "answer": AnswerConfig().model_dump(mode="json"),
        "retrieval": SETTINGS.model_dump(mode="json"),
        "prompt": {"ref": "builtin", "text": DEFAULT_PROMPT.text},
        "index": {"name": opened.corpus.index.name, "generation": opened.reader().head.generation},
    }
    chain = assemble(configuration, opened.reader, opened.embedder)
    values: dict[str, list[float]] = {}
    for question in questions:
        for name, value in _judged(chain, question).items():
            values.setdefault(name, []).append(value)
    rows: list[Row] = []
    for name, scores in values.items():
        rows += _rows("xquad_en", name, {"quoting": scores}, BARS["xquad_en"] if name == HOLDS else None)
    return [*rows, *_refusals(opened, chain)]


def _judged(chain: Any, question: Question) -> dict[str, float]:
    """One answer against its key."""
    events = list(chain.stream([{"role": "user", "content": question.text}], ChainContext()))
    cited = [event for event in events if isinstance(event, Citation)]
    found = next(event.passages for event in events if isinstance(event, Retrieval))
    passages = [next(p.text for p in found if p.uri == c.uri and p.start <= c.start and c.end <= p.end) for c in cited]
    first = cited[0].text if cited else ""
    return {
        HOLDS: float(any(_holds(text, question) for text in passages)),
        "first cited passage holds it": float(any(_holds(text, question) for text in passages[:1])),
        "a quoted sentence holds it": float(any(_holds(citation.text, question) for citation in cited)),
        "F1 of the first quoted sentence": max(_f1(first, gold) for gold in question.answers),
        "refused though answerable": float(any(isinstance(event, Done) and event.refused for event in events)),
    }


def _refusals(opened: Opened, chain: Any) -> list[Row]:
    """How many questions of another corpus, which nothing here answers, are refused."""
    data = question_sets.data_folder()
    assert data is not None
    scores = []
    for question in question_sets.load(data, "musique_100").questions:
        events = chain.stream([{"role": "user", "content": question.text}], ChainContext())
        scores.append(float(any(isinstance(event, Done) and event.refused for event in events)))
    return _rows("xquad_en", "questions of musique_100 refused", {"quoting": scores}, None)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _holds(text: str, question: Question) -> bool:
    joined = f" {' '.join(_words(text))} "
    return any(f" {' '.join(_words(gold))} " in joined for gold in question.answers)


def _f1(text: str, gold: str) -> float:
    """Token F1 as SQuAD's evaluation reckons it, over the first quoted sentence."""
    mine, theirs = _words(text), _words(gold)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs)) if shared else 0.0


def _rows(corpus: str, measure: str, values: dict[str, list[float]], bar: float | None) -> list[Row]:
    return [
        Row(corpus, measure, method, float(np.mean(scores)), float(np.mean(scores[1::2] or scores)), bar)
        for method, scores in values.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown; the ratio to the bar first."""
    lines = [
        "One default configuration. Settings were chosen on every second question; `held out` are the others.\n",
        "| x bar | corpus | measure | method | all | held out | bar |",
        "|---:|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        ratio = f"{row.every / row.bar:.3f}" if row.bar else ""
        bar = f"{row.bar:.3f}" if row.bar else ""
        lines.append(
            f"| {ratio} | {row.corpus} | {row.measure} | {row.method} | {row.every:.3f} | {row.held_out:.3f} | {bar} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
    sys.stdout.flush()

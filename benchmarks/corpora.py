"""The retrieval test sets that `LLMOPS_DATA` holds, and the measures taken on them.

Knows files and formulae, no searcher.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS = [
    "budget", "index", "lighthouse", "covenant", "protein", "river", "upstream", "ledger", "passage", "orchestra",
    "gradient", "harvest", "signal", "treaty", "membrane", "railway", "forecast", "password", "engine", "glacier",
    "statute", "violin", "refund", "quarter", "neuron", "harbour", "query", "winter", "pump",
]  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """Documents and questions with graded answers: `relevant[q]` maps a document's place to its grade."""

    name: str
    texts: list[str]
    queries: list[str]
    relevant: list[dict[int, int]]


def data() -> Path | None:
    """The folder of test sets, or None where the variable is unset or names none."""
    named = os.environ.get("LLMOPS_DATA")
    return Path(named) if named and Path(named).is_dir() else None


def load(folder: Path, name: str) -> Corpus:
    """Read one set of corpus.jsonl, queries.jsonl and qrels.tsv; a document is its title and text, as it is indexed."""
    documents = _lines(folder / name / "corpus.jsonl")
    place = {document["_id"]: n for n, document in enumerate(documents)}
    grades: dict[str, dict[int, int]] = {}
    for line in (folder / name / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        grades.setdefault(query, {})[place[document]] = int(grade)
    queries = [query for query in _lines(folder / name / "queries.jsonl") if query["_id"] in grades]
    texts = [f"{document['title']}\n{document['text']}" for document in documents]
    return Corpus(name, texts, [query["text"] for query in queries], [grades[query["_id"]] for query in queries])


def passages(folder: Path, size_chars: int = 800) -> list[str]:
    """The long documents of chunk_eval, cut into pieces of one size."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((folder / "chunk_eval" / "docs").iterdir())]
    return [text[start : start + size_chars] for text in texts for start in range(0, len(text), size_chars)]


def generated(count: int, size_chars: int = 800) -> list[str]:
    """Sentences of random words, the same each time: where no test set is at hand, and where a set is too small."""
    draw = random.Random(0)
    texts = []
    for number in range(count):
        words = [f"{draw.choice(WORDS)}{draw.randrange(300) or ''}" for _ in range(size_chars // 9)]
        texts.append(f"Section {number}. " + " ".join(words)[: size_chars - 16])
    return texts


def ndcg(ranking: Sequence[int], relevant: dict[int, int], depth: int = 10) -> float:
    """nDCG@depth of one ranking (Järvelin and Kekäläinen, 2002), linear gains."""
    gained = sum(relevant.get(int(row), 0) / math.log2(n + 2) for n, row in enumerate(ranking[:depth]))
    best = sorted(relevant.values(), reverse=True)[:depth]
    return gained / sum(grade / math.log2(n + 2) for n, grade in enumerate(best))


def mean_ndcg(rankings: Sequence[Sequence[int]], corpus: Corpus) -> float:
    scores = [ndcg(ranking, relevant) for ranking, relevant in zip(rankings, corpus.relevant, strict=True)]
    return sum(scores) / len(scores)


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

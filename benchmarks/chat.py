"""How long a reader waits over 5,600 chunks: for retrieval, and for the first words of a quoted answer.

Every question is asked once, so nothing is answered from a cache of sentences that an earlier question filled for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass

from benchmarks import question_sets
from llmops.core.chain import ChainContext, Delta
from llmops.core.identity import LOCAL
from llmops.rag.answer.prompt import DEFAULT_PROMPT
from llmops.rag.config import AnswerConfig, RetrievalConfig
from llmops.rag.embed import open_embedder
from llmops.rag.index import open_index
from llmops.rag.packaging import assemble
from llmops.rag.retrieve import Retriever

CHUNKS = 5600
BARS_MS = {"retrieval, query embedding included": 25.0, "first token, quoting": 150.0}
WARM_UP = 10


@dataclass(frozen=True)
class Timing:
    """Waiting times of one step over all questions."""

    name: str
    bar_ms: float | None
    p50_ms: float
    p95_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    data = question_sets.data_folder()
    if data is None:
        print("Skipped: LLMOPS_DATA names no folder with the question sets.")
        return
    corpus = question_sets.first_documents(question_sets.load(data, "scifact"), chosen.chunks)
    chunks = question_sets.ingest(corpus)
    timings = measure(corpus, [question.text for question in corpus.questions[: chosen.questions]])
    if chosen.json:
        print(json.dumps({"chunks": chunks, "timings": [timing.__dict__ for timing in timings]}, indent=1))
    else:
        print(table(chunks, timings))


def measure(corpus: question_sets.Corpus, questions: list[str]) -> list[Timing]:
    """Ask each question once, step by step."""
    index = open_index(corpus.state, corpus.index.name)
    embedder = open_embedder(index.reader().embedder_spec, corpus.state.cache)
    configuration = {
        "answer": AnswerConfig().model_dump(mode="json"),
        "retrieval": RetrievalConfig().model_dump(mode="json"),
        "prompt": {"ref": "builtin", "text": DEFAULT_PROMPT.text},
        "index": {"name": corpus.index.name, "generation": index.generation},
    }
    chain = assemble(configuration, index.reader, embedder)
    retriever = Retriever(index.reader, embedder)
    embedding, retrieval, first_token = [], [], []
    for question in questions:
        started = time.perf_counter()
        embedder.embed_query(question)
        embedding.append(time.perf_counter() - started)
        started = time.perf_counter()
        retriever.retrieve(question, LOCAL)
        retrieval.append(time.perf_counter() - started)
        started = time.perf_counter()
        events = chain.stream([{"role": "user", "content": question}], ChainContext())
        next(event for event in events if isinstance(event, Delta))
        first_token.append(time.perf_counter() - started)
    index.close()
    names = iter(BARS_MS.items())
    return [
        _timing("query embedding (the bound)", None, embedding),
        _timing(*next(names), retrieval),
        _timing(*next(names), first_token),
    ]


def _timing(name: str, bar_ms: float | None, seconds: list[float]) -> Timing:
    cuts = statistics.quantiles([value * 1000 for value in seconds[WARM_UP:]], n=20)
    return Timing(name, bar_ms, cuts[9], cuts[18])


def table(chunks: int, timings: list[Timing]) -> str:
    """Markdown; the ratio to the bound first."""
    bound = timings[0].p50_ms
    lines = [
        f"{chunks} chunks, one reader at a time.\n",
        "| x bound | step | p50 ms | p95 ms | bar p50 ms |",
        "|---:|---|---:|---:|---:|",
    ]
    for timing in timings:
        bar = f"{timing.bar_ms:.0f}" if timing.bar_ms else ""
        ratio = timing.p50_ms / bound
        lines.append(f"| {ratio:.1f} | {timing.name} | {timing.p50_ms:.1f} | {timing.p95_ms:.1f} | {bar} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

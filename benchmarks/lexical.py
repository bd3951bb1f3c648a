"""Lexical search beside bm25s: build, question, quality, and what a small change costs.

`python -m benchmarks.lexical [--json]`. Without `LLMOPS_DATA` on generated text, without quality.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.corpora import Corpus, data, generated, load, mean_ndcg
from benchmarks.peers import PeerUnavailableError, run_peer
from llmops.rag.lexical import Lexical, Segment, merge

PACKAGES = ("bm25s==0.3.16", "PyStemmer==3.1.0", "numpy==2.4.6")
ROUNDS = 3
DEPTH = 100
LARGE = 100_000


def ours(corpus: Corpus) -> dict[str, Any]:
    rows = list(enumerate(corpus.texts))
    build_s = []
    for _ in range(ROUNDS):
        started = time.process_time()
        data_bytes = Segment.build(rows).to_bytes()
        build_s.append(time.process_time() - started)
    segment = Segment.from_bytes(data_bytes)
    lexical = Lexical([segment], np.ones(len(rows), dtype=np.bool_))
    result: dict[str, Any] = {"build_s": build_s, "query_s": [], "rankings": []}
    for query in corpus.queries:
        started = time.perf_counter()
        found, _ = lexical.top(query, DEPTH)
        result["query_s"].append(time.perf_counter() - started)
        result["rankings"].append(found.tolist())
    result["change_s"] = change(corpus, segment)
    return result


def change(corpus: Corpus, segment: Segment) -> float:
    """CPU seconds to replace 1% of the rows: a segment of the new ones, and opening the whole over it."""
    size = len(corpus.texts)
    edited = list(range(0, size, 100))
    started = time.process_time()
    added = Segment.build([(size + n, corpus.texts[row]) for n, row in enumerate(edited)])
    live = np.ones(size + len(edited), dtype=np.bool_)
    live[edited] = False
    Lexical([segment, Segment.from_bytes(added.to_bytes())], live).top(corpus.queries[0], DEPTH)
    return time.process_time() - started


def beside(corpus: Corpus) -> dict[str, Any]:
    """One corpus, both searchers."""
    print(f"   {corpus.name}: {len(corpus.texts)} chunks", file=sys.stderr, flush=True)
    mine = ours(corpus)
    job = {"texts": corpus.texts, "queries": corpus.queries, "k": DEPTH, "rounds": ROUNDS}
    theirs = run_peer("bm25s", PACKAGES, "peer_bm25s.py", job)
    measured: dict[str, Any] = {"corpus": corpus.name, "chunks": len(corpus.texts)}
    for side, result in (("llmops", mine), ("bm25s", theirs)):
        build = statistics.median(result["build_s"])
        measured[side] = {
            "build_ms_chunk": 1e3 * build / len(corpus.texts),
            "query_ms_p50": 1e3 * statistics.median(result["query_s"]),
            "query_ms_p95": 1e3 * statistics.quantiles(result["query_s"], n=20)[-1],
            "change_ms": 1e3 * result.get("change_s", build),
            "ndcg": mean_ndcg(result["rankings"], corpus) if corpus.relevant else None,
        }
    return measured


def large(texts: list[str], queries: list[str]) -> dict[str, Any]:
    """Ours alone on many chunks: sentences of the texts, shuffled together."""
    sentences = [sentence for text in texts for sentence in text.split(". ")]
    drawn = np.random.default_rng(0).integers(len(sentences), size=(LARGE, 6))
    started = time.process_time()
    segment = Segment.build((row, ". ".join(sentences[n] for n in chosen)[:800]) for row, chosen in enumerate(drawn))
    build_s = time.process_time() - started
    live = np.ones(LARGE, dtype=np.bool_)
    lexical = Lexical([segment], live)
    times = []
    for query in queries:
        started = time.perf_counter()
        lexical.top(query, DEPTH)
        times.append(time.perf_counter() - started)
    live[::10] = False
    started = time.process_time()
    merge([segment], live)
    return {
        "chunks": LARGE,
        "build_ms_chunk": 1e3 * build_s / LARGE,
        "query_ms_p50": 1e3 * statistics.median(times),
        "query_ms_p95": 1e3 * statistics.quantiles(times, n=20)[-1],
        "merge_s": time.process_time() - started,
        "mb": len(segment.to_bytes()) / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = data()
    if folder:
        corpora = [load(folder, "scifact"), load(folder, "musique_100")]
    else:
        corpora = [Corpus("generated", generated(5000), [text[11:90] for text in generated(200)], [])]
    try:
        measured = [beside(corpus) for corpus in corpora]
    except PeerUnavailableError as error:
        print(f"Not measured: {error}.")
        return 0
    big = large(corpora[0].texts, corpora[0].queries)
    if arguments.json:
        print(json.dumps({"corpora": measured, "large": big}))
    else:
        print(table(measured, big))
    return 0


def table(measured: list[dict[str, Any]], big: dict[str, Any]) -> str:
    lines = [
        f"Both stem and drop stop words, k1 1.5, b .75, one thread, top {DEPTH}. Build and change in CPU time; a change"
        " replaces 1% of the chunks, for which bm25s builds anew. Bars: a question < 1 ms, build <= .25 ms a chunk.\n",
        "| x faster question | corpus | searcher | chunks | question ms p50 | p95 | build ms/chunk | change ms "
        "| nDCG@10 |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in measured:
        for side in ("llmops", "bm25s"):
            it = row[side]
            ratio = f"{row['bm25s']['query_ms_p50'] / it['query_ms_p50']:.1f}"
            quality = f"{it['ndcg']:.3f}" if it["ndcg"] is not None else "-"
            lines.append(
                f"| {ratio} | {row['corpus']} | {side} | {row['chunks']:,} | {it['query_ms_p50']:.2f} "
                f"| {it['query_ms_p95']:.2f} | {it['build_ms_chunk']:.3f} | {it['change_ms']:.0f} | {quality} |"
            )
    lines.append(
        f"\n{big['chunks']:,} chunks of 800 characters: question p50 {big['query_ms_p50']:.1f} ms, p95 "
        f"{big['query_ms_p95']:.1f} (bar 8), build {big['build_ms_chunk']:.3f} ms a chunk, {big['mb']:.0f} MB, merge "
        f"after 10% deletions {big['merge_s']:.1f} s."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

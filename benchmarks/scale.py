"""How far one machine carries: 60,000 files and 100,000 chunks through the real ingest, then 1,000,000 chunks.

Questions are embedded by the real embedder; a filter admits 1%, 5% or 50% of the documents. Beside it, in the same run,
what bounds it: the embedding of the question, and the plain scan over all vectors. Each index is read by a process of
its own, so that its memory can be told. Making the indexes takes about 20 minutes once; they are kept.

Run: python -m benchmarks.scale [--large 1000000] [--files 60000]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import question_sets, scale_corpus
from llmops.core.identity import LOCAL
from llmops.rag.config import EmbeddingConfig, RetrievalConfig
from llmops.rag.embed import open_embedder, resolve
from llmops.rag.index.reader import EXACT_BELOW, Index, IndexReader
from llmops.rag.retrieve import Retriever

QUESTIONS = 200
WARM_UP = 20
BARS_MS = {"files": 60.0, "large": 150.0}
RECALL_BAR = 0.95
UNCHANGED_BAR_S = 5.0
MEMORY_BAR = 1.2
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "50%": {"share": "50%"},
    "5%": {"share": "5%"},
    "1%": {"share": "1%"},
}


@dataclass(frozen=True)
class Waited:
    """One step over all questions, in ms."""

    p50: float
    p95: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=scale_corpus.FILES)
    parser.add_argument("--large", type=int, default=scale_corpus.LARGE)
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "COUNT"))
    chosen = parser.parse_args()
    if question_sets.data_folder() is None:
        print("Skipped: LLMOPS_DATA names no folder with the question sets.")
        return
    if chosen.child:
        what, count = chosen.child
        print(json.dumps(CHILDREN[what](int(count))))
        return
    scale_corpus.real_vectors()
    tenth = chosen.files // 10
    for files in (tenth, chosen.files):
        _child("ingest", files)  # a refresh, where it was made before
    scale_corpus.large(chosen.large)
    refreshed = {files: _child("refresh", files) for files in (tenth, chosen.files)}
    found = {"files": _child("files", chosen.files), "large": _child("large", chosen.large)}
    print(table(refreshed, found))


def ingest(files: int) -> dict[str, Any]:
    done = scale_corpus.ingest(files)
    return {"chunks": done.chunks, "seconds": done.seconds["total"], "mb": _peak_mb()}


def refresh(files: int) -> dict[str, Any]:
    """An unchanged refresh."""
    done = scale_corpus.ingest(files)
    assert not done.added
    assert done.unchanged == done.head.documents
    return {"files": done.unchanged, "seconds": done.seconds["total"], "mb": _peak_mb()}


def read_files(files: int) -> dict[str, Any]:
    config, state = scale_corpus.index_of(files)
    return read(state.index(config.name), None)


def read_large(chunks: int) -> dict[str, Any]:
    return read(scale_corpus.large(chunks), "large")


def read(folder: Path, generation: str | None) -> dict[str, Any]:
    """Ask every question with every filter; then compare the dense half with the exact one."""
    cache = question_sets.ROOT / "state" / "cache"
    embedder = open_embedder(resolve(EmbeddingConfig(), cache), cache)
    before = _resident_mb()
    began = time.perf_counter()
    index = Index.open(folder, generation)
    opened = time.perf_counter() - began
    reader = index.reader()
    _wait_for_store(index)
    questions = _questions()
    retriever = Retriever(index.reader, embedder, RetrievalConfig())
    result: dict[str, Any] = {"chunks": reader.head.chunks, "open_s": opened}
    result["embedding"] = _timed(embedder.embed_query, questions)
    for name, filters in FILTERS.items():
        result[name] = _timed(lambda text, chosen=filters: retriever.retrieve(text, LOCAL, chosen), questions)
    result["mb"] = _resident_mb() - before
    vectors = [embedder.embed_query(text) for text in questions[:100]]
    result["recall"] = {name: _recall(reader, vectors, filters) for name, filters in FILTERS.items()}
    scans = iter(vectors * 2)
    result["scan"] = _timed(lambda _: reader._snapshot.vectors @ next(scans), questions[:60])
    index.close()
    return result


def _recall(reader: IndexReader, vectors: list[Any], filters: dict[str, Any], k: int = 10) -> float:
    """The share of the exact k nearest that the reader finds among as many as it gives to fusion."""
    allowed = reader.allowed(LOCAL, filters)
    rows = np.arange(reader.size) if allowed is None else np.flatnonzero(allowed)
    shares = []
    for vector in vectors:
        scores = reader._snapshot.vectors[reader._snapshot.slots[rows]] @ vector if len(rows) < reader.size else None
        if scores is None:
            scores = (reader._snapshot.vectors @ vector)[reader._snapshot.slots]
        best = set(rows[np.argpartition(-scores, k)[:k]].tolist())
        shares.append(len(best & set(reader.dense(vector, k, allowed).rows.tolist())) / k)
    return float(np.mean(shares))


def _questions() -> list[str]:
    data = question_sets.data_folder()
    assert data is not None
    return [question.text for question in question_sets.load(data, "scifact").questions[:QUESTIONS]]


def _wait_for_store(index: Index) -> None:
    """Readers load the vector store in a thread; what is measured is the state after that."""
    for _ in range(100):
        if index.reader()._store is not None or not EXACT_BELOW <= index.reader().head.chunks <= 500_000:
            return
        time.sleep(0.2)


def _timed(step: Callable[[str], Any], questions: list[str]) -> dict[str, float]:
    seconds = []
    for question in questions:
        began = time.perf_counter()
        step(question)
        seconds.append(time.perf_counter() - began)
    p50, p95 = np.percentile(seconds[WARM_UP:], [50, 95]) * 1000
    return {"p50": float(p50), "p95": float(p95)}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _child(what: str, count: int) -> dict[str, Any]:
    print(f"{what} {count:,}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.scale", "--child", what, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {result}", file=sys.stderr, flush=True)
    return result


CHILDREN: dict[str, Callable[[int], dict[str, Any]]] = {
    "ingest": ingest,
    "refresh": refresh,
    "files": read_files,
    "large": read_large,
}


def table(refreshed: dict[int, dict[str, Any]], found: dict[str, dict[str, Any]]) -> str:
    """Markdown; the ratio to the bar first."""
    few, many = refreshed.values()
    lines = [
        f"{many['files']:,} files through the real ingest; the larger index written straight into the manifest.\n",
        "| of the bar | chunks | filter admits | p50 ms | p95 ms | bar | recall@10 of the dense half |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name, it in found.items():
        for which in FILTERS:
            asked = it[which]
            lines.append(
                f"| {asked['p95'] / BARS_MS[name]:.2f} | {it['chunks']:,} | {'all' if which == 'none' else which} |"
                f" {asked['p50']:.1f} | {asked['p95']:.1f} | {BARS_MS[name]:.0f} | {it['recall'][which]:.3f} |"
            )
    lines.append("\nBounds and costs of the same processes:\n")
    lines += [
        "| chunks | embedding p50, p95 ms | plain scan p50, p95 ms | MB resident | open s |",
        "|---:|---|---|---:|---:|",
    ]
    for it in found.values():
        bounds = " | ".join(f"{it[bound]['p50']:.1f}, {it[bound]['p95']:.1f}" for bound in ("embedding", "scan"))
        lines.append(f"| {it['chunks']:,} | {bounds} | {it['mb']:,.0f} | {it['open_s']:.1f} |")
    ratio = many["mb"] / few["mb"]
    lines.append(
        f"\nAn unchanged refresh of {many['files']:,} files: {many['seconds']:.2f} s (bar {UNCHANGED_BAR_S:.0f}); it"
        f" peaks at {many['mb']:.0f} MB, {ratio:.2f} times that of {few['files']:,} files (bar {MEMORY_BAR})."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Embedding beside sentence-transformers' default: rate, exactness, effect on ranking, load, one question.

`python -m benchmarks.embedding [--json] [--full]`. The same texts, each side in processes of its own, in turns.
`--full` embeds all of scifact instead of a part. Without `LLMOPS_DATA` on generated text, without the effect on
ranking.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import Corpus, data, generated, load, mean_ndcg, passages

TEXTS = 1000
ROUNDS = 3
QUESTIONS = 100
BAR = 2.5


def part_of(corpus: Corpus, size: int) -> Corpus:
    """A corpus' relevant documents and as many others as make `size`, in the order of the whole."""
    wanted = sorted({row for relevant in corpus.relevant for row in relevant})
    others = np.random.default_rng(0).permutation(sorted(set(range(len(corpus.texts))) - set(wanted)))
    rows = sorted([*wanted, *others[: max(0, size - len(wanted))].tolist()])
    place = {row: n for n, row in enumerate(rows)}
    relevant = [{place[row]: grade for row, grade in grades.items()} for grades in corpus.relevant]
    return Corpus(corpus.name, [corpus.texts[row] for row in rows], corpus.queries, relevant)


def material(full: bool, size: int) -> tuple[list[str], Corpus | None]:
    """The texts to embed, and the corpus that the first of them are."""
    folder = data()
    if not folder:
        return generated(size), None
    corpus = load(folder, "scifact")
    if not full:
        corpus = part_of(corpus, size // 2)
    cut = passages(folder)
    chosen = np.random.default_rng(1).permutation(len(cut))[: size // 2]
    return [*corpus.texts, *(cut[n] for n in sorted(chosen.tolist()))], corpus


def side(name: str, folder: Path) -> None:
    """One side, one round, in a process of its own: vectors to a file, figures to stdout."""
    job = json.loads((folder / "job.json").read_text())
    started = time.perf_counter()
    if name == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        from llmops.rag.embed.loader import locate, quiet

        with quiet():
            model = SentenceTransformer(str(locate("all-MiniLM-L6-v2").folder), device="cpu")
        embed, ask = model.encode, model.encode
    else:
        from llmops.rag.config import EmbeddingConfig
        from llmops.rag.embed import open_embedder, resolve

        embedder = open_embedder(resolve(EmbeddingConfig(), folder), folder)
        embed, ask = embedder.embed, embedder.embed_query
    ask("ready")
    loaded_s = time.perf_counter() - started
    started, cpu = time.perf_counter(), time.process_time()
    vectors = embed(job["texts"])
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    questions, times = [], []
    for text in job["questions"]:
        started = time.perf_counter()
        questions.append(ask(text))
        times.append(time.perf_counter() - started)
    np.savez(folder / f"{name}.npz", vectors=vectors, questions=np.stack(questions))
    figures = {"load_s": loaded_s, "wall_s": wall_s, "cpu_s": cpu_s, "question_ms": 1e3 * statistics.median(times)}
    print(json.dumps(figures))


def run_side(name: str, folder: Path) -> dict[str, float]:
    print(f"   {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.embedding", "--side", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(full: bool, rounds: int, size: int) -> dict[str, Any]:
    from llmops.rag.config import EmbeddingConfig
    from llmops.rag.embed import resolve

    texts, corpus = material(full, size)
    queries = corpus.queries if corpus else generated(QUESTIONS, 60)
    names = ("sentence-transformers", "llmops")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "job.json").write_text(json.dumps({"texts": texts, "questions": queries}))
        started = time.perf_counter()
        spec = resolve(EmbeddingConfig(), folder)
        first_s = time.perf_counter() - started
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                figures[name].append(run_side(name, folder))
        saved = {name: dict(np.load(folder / f"{name}.npz")) for name in names}
    result: dict[str, Any] = {
        "texts": len(texts), "rounds": rounds, "first_choice_s": first_s,
        "backend": f"{spec.backend} {spec.precision} {spec.device}",
    }  # fmt: skip
    for name in names:
        median = {key: statistics.median(one[key] for one in figures[name]) for key in figures[name][0]}
        result[name] = median | {
            "chunks_per_s": len(texts) / median["wall_s"],
            "chunks_per_cpu_s": len(texts) / median["cpu_s"],
            "ndcg": dense_ndcg(saved[name], corpus) if corpus else None,
        }
    cosines = (saved[names[0]]["vectors"] * saved[names[1]]["vectors"]).sum(axis=1)
    result["cosine_error"] = float(1 - cosines.min())
    result["scifact_documents"] = len(corpus.texts) if corpus else 0
    return result


def dense_ndcg(saved: dict[str, Any], corpus: Corpus) -> float:
    """nDCG@10 of exact search by cosine."""
    scores = saved["questions"] @ saved["vectors"][: len(corpus.texts)].T
    return mean_ndcg(np.argsort(-scores, axis=1, kind="stable")[:, :10].tolist(), corpus)


def table(result: dict[str, Any]) -> str:
    base = result["sentence-transformers"]
    lines = [
        f"all-MiniLM-L6-v2, {result['texts']:,} texts, median of {result['rounds']} rounds in turns. Chosen here: "
        f"{result['backend']}, by a trial of {result['first_choice_s']:.0f} s, once a machine. Bar: {BAR} x where the "
        "CPU has AVX-512 bf16.\n",
        "| x default | x per CPU-second | embedder | chunks/s | per CPU-second | load s | question ms p50 | nDCG@10 |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name in ("llmops", "sentence-transformers"):
        it = result[name]
        ratio, cpu = it["chunks_per_s"] / base["chunks_per_s"], it["chunks_per_cpu_s"] / base["chunks_per_cpu_s"]
        quality = f"{it['ndcg']:.4f}" if it["ndcg"] is not None else "-"
        lines.append(
            f"| {ratio:.2f} | {cpu:.2f} | {name} | {it['chunks_per_s']:.1f} | {it['chunks_per_cpu_s']:.1f} "
            f"| {it['load_s']:.2f} | {it['question_ms']:.1f} | {quality} |"
        )
    lines.append(f"\nLargest cosine error {result['cosine_error']:.1e}.")
    if base["ndcg"] is not None:
        change = result["llmops"]["ndcg"] - base["ndcg"]
        lines[-1] += (
            f" nDCG@10 change {change:+.4f} (bar .002), dense search over {result['scifact_documents']:,} documents of"
            " scifact."
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--full", action="store_true", help="all 5,183 documents of scifact (a quarter of an hour)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side(arguments.side, arguments.folder)
        return 0
    result = measure(arguments.full, arguments.rounds, arguments.texts)
    print(json.dumps(result) if arguments.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

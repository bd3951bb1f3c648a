"""What an ingest costs besides embedding, and what a refresh costs after a change; beside LangChain and LlamaIndex.

All three get an embedder that costs nothing, since embedding is the same work for all and 95% of a full ingest; how
many texts each asks to embed is counted. A second table is ours alone with the real embedder. Run: python -m
benchmarks.ingest [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import PeerUnavailableError, run_peer

ROOT = Path(__file__).parent.parent
PEERS = {
    "langchain": (
        *("langchain-chroma==1.1.0", "langchain-classic==1.0.8", "langchain-core==1.7.2"),
        *("langchain-text-splitters==1.1.3", "chromadb==1.5.9", "numpy==2.4.6", "sqlalchemy[asyncio]==2.1.9"),
    ),
    "llamaindex": (
        *("llama-index-core==0.14.25", "llama-index-vector-stores-chroma==0.5.5", "chromadb==1.5.9", "numpy==2.4.6"),
    ),
}
FILES = 600
EDITED = 6

RUNNER = """
import json, os, resource, sys, time
began = time.perf_counter()
from pathlib import Path
from llmops.core.state import StateConfig
from llmops.rag.config import IndexConfig, FolderSource
from llmops.rag.ingest.refresh import Options, refresh
docs, state, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
config = IndexConfig(sources=(FolderSource(path=str(docs)),))
embedder = None
def cpu():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
if kind.startswith("free"):
    sys.path.insert(0, sys.argv[4])
    if kind == "free-warm":
        import chromadb, chromadb.api.rust, llmops.rag.ingest.pipeline, llmops.rag.ingest.writer
        from free_embedder import FreeEmbedder
        embedder = FreeEmbedder()
    else:
        import types
        embedder = types.SimpleNamespace(fingerprint="free-1")
elif kind == "real-warm":
    import chromadb, chromadb.api.rust, llmops.rag.ingest.pipeline, llmops.rag.ingest.writer
    from llmops.rag.embed import open_embedder, resolve
    embedder = open_embedder(resolve(config.embedding, Path(sys.argv[4])), Path(sys.argv[4]))
    embedder.embed_query("warm")
imported, used = time.perf_counter(), cpu()
state_config = StateConfig(dir=state)
if kind.startswith("real"):
    (state / "cache").parent.mkdir(parents=True, exist_ok=True)
    if not (state / "cache").exists():
        os.symlink(sys.argv[4], state / "cache")
done = refresh(config, state_config, Options(embedder=embedder))
print(json.dumps({"import_s": imported - began, "run_s": time.perf_counter() - imported, "cpu_s": cpu() - used,
                  "embedded": done.embedded, "chunks": done.chunks, "seconds": done.seconds}))
"""


def make_corpus(docs: Path, files: int) -> str:
    """Write the documents; from real abstracts where LLMOPS_DATA has them, else from invented sentences."""
    docs.mkdir(parents=True)
    source = Path(os.environ.get("LLMOPS_DATA", "")) / "scifact" / "corpus.jsonl"
    if os.environ.get("LLMOPS_DATA") and source.exists():
        abstracts = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        sections = [f"## {a['title']}\n\n{a['text']}" for a in abstracts]
        made_of = "SciFact abstracts"
    else:
        chance = random.Random(5)
        words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "la", "mo", "ti")]

        def sentence() -> str:
            return " ".join(chance.choices(words, k=12)).capitalize() + "."

        sections = [f"## {sentence()}\n\n" + " ".join(sentence() for _ in range(18)) for _ in range(2000)]
        made_of = "invented sentences"
    place = 0
    for n in range(files):
        each = 3 if n % 4 == 3 else 4
        body = "\n\n".join(sections[(place + i) % len(sections)] for i in range(each))
        place += each
        (docs / f"{n // 50:02d}").mkdir(exist_ok=True)
        path = docs / f"{n // 50:02d}" / f"paper {n}.md"
        path.write_text(f"# Paper {n}\n\n{body}\n", encoding="utf-8")
        os.utime(path, (path.stat().st_mtime - 1000,) * 2)
    return made_of


def edit(docs: Path, mark: str) -> None:
    """Change one sentence in 1% of the documents."""
    for path in sorted(docs.rglob("*.md"))[:: FILES // EDITED][:EDITED]:
        path.write_text(path.read_text(encoding="utf-8").replace(". ", f" ({mark}). ", 1), encoding="utf-8")
        os.utime(path, (path.stat().st_mtime - 500,) * 2)


def rename(docs: Path, mark: str) -> None:
    """Give 1% of the documents another name."""
    for path in sorted(docs.rglob("*.md"))[:: FILES // EDITED][:EDITED]:
        path.rename(path.with_name(f"{mark} {path.name}"))


def run(command: list[str]) -> dict[str, Any]:
    """One refresh in a process of its own; `command_s` is that process's whole time."""
    parts = [str(ROOT / part) for part in ("cli", "serving", "rag", "registry", "core")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(parts), "ANONYMIZED_TELEMETRY": "False"}
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=3000)
    command_s = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command[-4:])} failed:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "command_s": command_s}


def ours(docs: Path, state: Path, kind: str, extra: Path) -> dict[str, Any]:
    return run([sys.executable, "-c", RUNNER, str(docs), str(state), kind, str(extra)])


def peer(name: str, docs: Path, state: Path) -> dict[str, Any]:
    """One refresh by a peer. Raises PeerUnavailableError."""
    began = time.perf_counter()
    done = run_peer(name, PEERS[name], f"peer_{name}.py", {"docs": str(docs), "state": str(state)}, timeout_s=3000)
    return {**done, "command_s": time.perf_counter() - began}


def measure(refresh: Callable[[str], dict[str, Any]], docs: Path, repeats: int, label: str) -> dict[str, Any]:
    """Full, unchanged, 1% edited and renamed, in that order, on one state."""
    tell(f"{label}: full")
    result: dict[str, Any] = {"full": refresh("full")}
    for scenario, change in (("unchanged", None), ("edited", edit), ("renamed", rename)):
        tell(f"{label}: {scenario}")
        times = []
        for n in range(repeats):
            if change is not None:
                change(docs, f"{label} {n}")
            times.append(refresh(scenario))
        middle = {
            key: statistics.median(t[key] for t in times)
            for key in ("command_s", "run_s", "import_s", "cpu_s", "embedded")
        }
        if "seconds" in times[0]:
            middle["embed_s"] = statistics.median(t["seconds"].get("embed", 0.0) for t in times)
        result[scenario] = middle
    return result


def tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def benchmark(files: int, repeats: int, *, peers: bool, real: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder:
        root = Path(folder)
        made_of = make_corpus(root / "docs", files)
        result: dict[str, Any] = {"files": files, "corpus": made_of, "systems": {}, "skipped": []}

        def fresh(name: str) -> tuple[Path, Path]:
            shutil.copytree(root / "docs", root / name / "docs")
            return root / name / "docs", root / name / "state"

        docs, state = fresh("ours")
        here = Path(__file__).parent

        def step(scenario: str) -> dict[str, Any]:
            return ours(docs, state, "free-cold" if scenario == "unchanged" else "free-warm", here)

        result["systems"]["llmops"] = measure(step, docs, repeats, "llmops")
        for name in PEERS if peers else ():
            docs_of, state_of = fresh(name)
            try:
                result["systems"][name] = measure(_peer_step(name, docs_of, state_of), docs_of, repeats, name)
            except PeerUnavailableError as error:
                result["skipped"].append(str(error))
        if real:
            docs_real, state_real = fresh("real")
            cache = ROOT / ".benchmarks" / "cache"
            cache.mkdir(parents=True, exist_ok=True)

            def real_step(scenario: str) -> dict[str, Any]:
                return ours(
                    docs_real, state_real, "real-cold" if scenario in ("unchanged", "full") else "real-warm", cache
                )

            result["real"] = measure(real_step, docs_real, repeats, "with the real embedder")
            edit(docs_real, "cold")
            result["real"]["edited_command_s"] = ours(docs_real, state_real, "real-cold", cache)["command_s"]
        return result


def _peer_step(name: str, docs: Path, state: Path) -> Callable[[str], dict[str, Any]]:
    return lambda _: peer(name, docs, state)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown, ratios to ours first."""
    systems = result["systems"]
    base = systems["llmops"]
    chunks = base["full"]["chunks"]
    lines = [
        f"{result['files']} files, {chunks} chunks, {result['corpus']}; an embedder without cost for all; medians.",
        "",
        "| system | full: CPU ms a chunk | full s | unchanged, whole command s | 1% edited s | texts embedded"
        " | renamed: embedded |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in systems.items():
        per_chunk = 1000 * r["full"]["cpu_s"] / max(r["full"]["chunks"], 1)
        unchanged, edited, full = r["unchanged"]["command_s"], r["edited"]["run_s"], r["full"]["run_s"]
        failed = " (failed)" if r["full"].get("failed") else ""
        lines.append(
            f"| {name}{failed} | {per_chunk:.2f} | {full / base['full']['run_s']:.1f}x, {full:.1f} |"
            f" {unchanged / base['unchanged']['command_s']:.1f}x, {unchanged:.2f} |"
            f" {edited / base['edited']['run_s']:.1f}x, {edited:.2f} | {r['edited']['embedded']:.0f} |"
            f" {r['renamed']['embedded']:.0f} |"
        )
    lines += ["", "1% edited: without imports. Bars: 2.5 ms a chunk, unchanged 1.0 s, edited 0.3 s, renamed 0."]
    if result["skipped"]:
        lines += ["", f"Peers left out: {'; '.join(result['skipped'])}"]
    if "real" in result:
        r = result["real"]
        full, beyond = r["full"], r["edited"]["run_s"] - r["edited"]["embed_s"]
        lines += [
            "",
            "With the real embedder, ours alone:",
            "",
            "| step | figure |",
            "|---|---|",
            f"| full ingest | {full['command_s']:.1f} s, {full['chunks'] / full['run_s']:.0f} chunks/s |",
            f"| of which embedding ran | {100 * full['seconds']['embed'] / full['run_s']:.0f}% of the time |",
            f"| unchanged, whole command | {r['unchanged']['command_s']:.2f} s |",
            f"| 1% edited, beyond embedding, imports and model load | {beyond:.2f} s |",
            f"| 1% edited, embedding ({r['edited']['embedded']:.0f} texts) | {r['edited']['embed_s']:.2f} s |",
            f"| 1% edited, whole command | {r['edited_command_s']:.1f} s |",
            f"| renamed, whole command (embedded {r['renamed']['embedded']:.0f}) | {r['renamed']['command_s']:.1f} s |",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-real", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = benchmark(options.files, options.repeats, peers=not options.no_peers, real=not options.no_real)
    print(json.dumps(result, indent=1) if options.json else table(result))


if __name__ == "__main__":
    main()

"""50 people asking at once over 100,000 chunks: how long each waits, and how many are answered a second.

The real `llmops serve` gives whole answers: search by meaning and by words, quoted sentences, checked citations, a row
in the log. LangChain and LlamaIndex over Chroma search by meaning alone and give the eight nearest passages, each in
the FastAPI server that such programs are usually put behind. Our search alone stands behind the same server. All have
the same chunks and vectors. The peers embed questions with sentence-transformers, their usual choice; a second time
each is handed the question's vector, at no cost. Every client asks its next question when it has its answer, and no
question is asked twice.

Run: python -m benchmarks.askers [--clients 50] [--questions 400] [--only NAME]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from benchmarks import askers_state, question_sets
from benchmarks.peers import PeerUnavailableError, installed, run_peer

HERE = Path(__file__).parent
CLIENTS, QUESTIONS, WARM_UP = 50, 400, 100
SERVER = ("fastapi==0.165.0", "uvicorn==0.54.0", "numpy==2.4.6", "chromadb==1.5.9")
PEERS = {
    "langchain": ("langchain-chroma==1.1.0", "langchain-core==1.7.2", *SERVER),
    "llamaindex": ("llama-index-core==0.14.25", "llama-index-vector-stores-chroma==0.5.5", *SERVER),
}
NAMES = {"langchain": "LangChain + Chroma", "llamaindex": "LlamaIndex + Chroma"}
OURS, OURS_ALONE = "llmops serve", "llmops, search alone"


@dataclass(frozen=True)
class Side:
    """What one server did with all questions. Times in ms, memory in MB."""

    name: str
    gives: str
    embedding: str
    p50: float
    p95: float
    p99: float
    per_s: float
    errors: int
    cpu_ms: float
    mb: float
    quoted: int = 0


@dataclass(frozen=True)
class Door:
    """A server that runs, and how it is asked."""

    port: int
    pid: int
    chat: bool

    def request(self, question: str) -> bytes:
        if not self.chat:
            return f"GET /ask?q={quote(question)} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
        body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": question}]}).encode()
        head = f"host: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return f"POST /v1/chat/completions HTTP/1.1\r\n{head}".encode() + body


async def ask_all(door: Door, questions: Sequence[str], clients: int) -> tuple[list[float], int, int]:
    """Seconds of every answer, how many were none, and how many cite; each client keeps its connection."""
    left, seconds, errors, citing = iter(questions), [], 0, 0

    async def client() -> None:
        nonlocal errors, citing
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        for question in left:
            began = time.perf_counter()
            writer.write(door.request(question))
            status, body = await _reply(reader)
            if status == 200:
                seconds.append(time.perf_counter() - began)
                citing += b'"citations":[{' in body
            else:
                errors += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds, errors, citing


async def _reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lines = head.splitlines()
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


def measure(name: str, gives: str, embedding: str, door: Door, asked: list[str], clients: int) -> Side:
    print(f"asking {name}, embedding {embedding}", file=sys.stderr, flush=True)
    asyncio.run(ask_all(door, asked[:WARM_UP], clients))
    cpu, began = _cpu_s(door.pid), time.perf_counter()
    seconds, errors, citing = asyncio.run(ask_all(door, asked[WARM_UP:], clients))
    took, cpu = time.perf_counter() - began, _cpu_s(door.pid) - cpu
    p50, p95, p99 = (float(cut) for cut in np.percentile(seconds, [50, 95, 99]) * 1000)
    each = 1000 * cpu / (len(asked) - WARM_UP)
    side = Side(name, gives, embedding, p50, p95, p99, len(seconds) / took, errors, each, _peak_mb(door.pid), citing)
    print(f"  {side}", file=sys.stderr, flush=True)
    return side


@contextmanager
def chat_door() -> Iterator[Door]:
    """The real server, with its default settings."""
    from tests.support.commands import running

    with running(askers_state.ROOT, "serve", "--port", "0", opened="chat at") as (url, process):
        port = urlsplit(url).port
        assert port is not None
        yield Door(port, process.pid, chat=True)


@contextmanager
def plain_door(command: list[str | Path], job: dict[str, Any]) -> Iterator[Door]:
    """A server that reads a job and prints its port."""
    process = subprocess.Popen(command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        line = process.stdout.readline()
        if not line:
            raise PeerUnavailableError(f"{job.get('peer', OURS_ALONE)} did not start")
        yield Door(json.loads(line)["port"], process.pid, chat=False)
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


def search_alone(job: dict[str, Any]) -> None:
    """Our search behind the peers' server: a process of its own."""
    from benchmarks import peer_askers
    from llmops.core.identity import LOCAL
    from llmops.rag.config import RagConfig
    from llmops.rag.embed import open_embedder
    from llmops.rag.index import open_index
    from llmops.rag.retrieve import QueryEmbedder, Retriever

    class Given:
        """The vectors that peers are handed too."""

        def __init__(self) -> None:
            self._embed = peer_askers.embedder(job)

        def embed_query(self, text: str) -> Any:
            return np.array(self._embed(text), dtype=np.float32)

        def embed(self, texts: list[str]) -> Any:
            return np.stack([self.embed_query(text) for text in texts])

    index = open_index(askers_state.STATE, RagConfig().index.name)
    embedder: QueryEmbedder
    if job["embedding"] == "given":
        embedder = Given()
    else:
        embedder = open_embedder(index.reader().embedder_spec, askers_state.STATE.cache)
    retriever = Retriever(index.reader, embedder)

    def ask(question: str) -> list[dict[str, Any]]:
        found = retriever.retrieve(question, LOCAL).passages
        return [{"text": one.chunk.text, "uri": one.chunk.uri, "start": one.chunk.start} for one in found]

    ask(job["first"])
    peer_askers.serve(ask)


def ours(only: str | None, given: Path, asked: list[str], clients: int) -> list[Side]:
    sides = []
    if only in (None, "serve"):
        with chat_door() as door:
            sides.append(measure(OURS, "cited answer", "ours", door, asked, clients))
    if only in (None, "search"):
        for embedding in ("ours", "given"):
            job = {"embedding": embedding, "given": str(given), "first": asked[0]}
            with plain_door([sys.executable, "-m", "benchmarks.askers", "--search-alone"], job) as door:
                sides.append(measure(OURS_ALONE, "8 passages", embedding, door, asked, clients))
    return sides


def peer(name: str, given: Path, asked: list[str], clients: int) -> list[Side]:
    """A peer twice, its own embedding and given vectors. Raises PeerUnavailableError."""
    from llmops.rag.embed.loader import locate

    job = {
        "peer": name,
        "state": str(askers_state.ROOT / name),
        "given": str(given),
        "first": asked[0],
        "site": str(Path(np.__file__).parents[1]),
        "model": str(locate("all-MiniLM-L6-v2").folder),
    }
    run_peer(f"askers_{name}", PEERS[name], "peer_askers.py", {**job, "embedding": "given", "build": True}, 1800)
    python = installed(f"askers_{name}", PEERS[name])
    sides = []
    for embedding in ("sentence-transformers", "given"):
        with plain_door(
            [python, "-I", HERE / "peer_askers.py"], {**job, "embedding": embedding, "build": False}
        ) as door:
            sides.append(measure(NAMES[name], "8 passages", embedding, door, asked, clients))
    return sides


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def table(sides: Sequence[Side], skipped: Sequence[str], clients: int, count: int) -> str:
    """Markdown; first the ratio of each p95 to that of our search with the embedding done likewise."""
    base = {side.embedding: side.p95 for side in sides if side.name == OURS_ALONE}
    lines = [
        f"{count:,} questions by {clients} clients over 100,000 chunks. The ratio is of the p95, to our search alone;"
        " where a question's vector is given, to ours with it given. llmops searches by meaning and by words, the peers"
        " by meaning alone; a cited answer also embeds up to 16 sentences.\n",
        "| x ours | server | gives | question embedded by | p50 ms | p95 ms | p99 ms | answers/s | errors |"
        " CPU ms each | MB peak |",
        "|---:|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for it in sides:
        waits = " | ".join(f"{value:,.0f}" for value in (it.p50, it.p95, it.p99))
        own = base.get(it.embedding) or base.get("ours")
        lines.append(
            f"| {f'{it.p95 / own:.2f}' if own else ''} | {it.name} | {it.gives} | {it.embedding} | {waits} |"
            f" {it.per_s:.1f} | {it.errors} | {it.cpu_ms:.1f} | {it.mb:,.0f} |"
        )
    if quoting := [side for side in sides if side.name == OURS]:
        lines.append(f"\nOf the {count:,} answers of `{OURS}`, {quoting[0].quoted:,} quote and cite; the rest refuse.")
    return "\n".join([*lines, *(f"\n{why}." for why in skipped)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--only", choices=["serve", "search", *PEERS])
    parser.add_argument("--search-alone", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.search_alone:
        search_alone(json.load(sys.stdin))
        return
    if question_sets.data_folder() is None:
        print("Skipped: LLMOPS_DATA names no folder with the question sets.")
        return
    spec = askers_state.prepared()
    asked = askers_state.questions(chosen.questions + WARM_UP)
    given = askers_state.handed_over(spec, asked)
    sides, skipped = ours(chosen.only, given, asked, chosen.clients), []
    for name in PEERS:
        if chosen.only in (None, name):
            try:
                sides += peer(name, given, asked, chosen.clients)
            except PeerUnavailableError as error:
                skipped.append(str(error))
    print(table(sides, skipped, chosen.clients, chosen.questions))


if __name__ == "__main__":
    main()

"""LangChain or LlamaIndex over Chroma, answering questions over HTTP. Run in the environment of one of them.

Reads one JSON job on stdin: builds the store from given vectors as far as it is not there yet; or, in a process that
never saw those, prints a port, and each GET /ask?q=... answers the eight nearest passages. FastAPI runs plain functions
in its pool of 40 threads.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"ANONYMIZED_TELEMETRY": "False", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
import numpy as np
import uvicorn
from fastapi import FastAPI

TOP = 8
BATCH = 5_000
"""Chroma takes 5,461 records a call."""

Embed = Callable[[str], list[float]]
Passages = list[dict[str, Any]]


def embedder(job: dict[str, Any]) -> Embed:
    """sentence-transformers as both peers' adapters call it; or, at no cost at all, vectors reckoned beforehand."""
    if job["embedding"] == "given":
        folder = Path(job["given"])
        texts = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        known = dict(zip(texts, np.load(folder / "questions.npy").tolist(), strict=True))
        return lambda text: known[text]
    sys.path.append(job["site"])  # behind the peer's own packages: only for what it lacks
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], device="cpu")
    return lambda text: model.encode([text], show_progress_bar=False)[0].tolist()


def langchain(folder: Path, embed: Embed, chunks: Passages, vectors: Any) -> Callable[[str], Passages]:
    from langchain_chroma import Chroma
    from langchain_core.embeddings import Embeddings

    batch: list[list[float]] = []

    class Given(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return batch

        def embed_query(self, text: str) -> list[float]:
            return embed(text)

    store = Chroma("chunks", embedding_function=Given(), persist_directory=str(folder))
    for start in range(store._collection.count(), len(chunks), BATCH):
        some = chunks[start : start + BATCH]
        batch[:] = vectors[start : start + BATCH].tolist()
        facts = [{"uri": chunk["uri"], "start": chunk["start"]} for chunk in some]
        store.add_texts([chunk["text"] for chunk in some], facts, ids=[str(start + n) for n in range(len(some))])
        print(f"   langchain: {start + len(some):,} chunks", file=sys.stderr, flush=True)

    def ask(question: str) -> Passages:
        return [{"text": found.page_content, **found.metadata} for found in store.similarity_search(question, k=TOP)]

    return ask


def llamaindex(folder: Path, embed: Embed, chunks: Passages, vectors: Any) -> Callable[[str], Passages]:
    import chromadb
    from llama_index.core import VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.chroma import ChromaVectorStore

    class Given(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return embed(text)

        def _get_query_embedding(self, query: str) -> list[float]:
            return embed(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return embed(query)

    collection = chromadb.PersistentClient(str(folder)).get_or_create_collection("chunks")
    options: dict[str, Any] = {"chroma_collection": collection}
    store = ChromaVectorStore(**options)
    for start in range(collection.count(), len(chunks), BATCH):
        some = chunks[start : start + BATCH]
        nodes = [
            TextNode(
                id_=str(start + n),
                text=chunk["text"],
                metadata={"uri": chunk["uri"], "start": chunk["start"]},
                embedding=vectors[start + n].tolist(),
            )
            for n, chunk in enumerate(some)
        ]
        store.add(nodes)
        print(f"   llamaindex: {start + len(some):,} chunks", file=sys.stderr, flush=True)
    retriever = VectorStoreIndex.from_vector_store(store, embed_model=Given()).as_retriever(similarity_top_k=TOP)

    def ask(question: str) -> Passages:
        return [{"text": found.node.get_content(), **found.node.metadata} for found in retriever.retrieve(question)]

    return ask


def serve(ask: Callable[[str], Passages]) -> None:
    app = FastAPI()
    app.get("/ask", response_model=None)(lambda q: {"passages": ask(q)})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def main() -> None:
    job = json.load(sys.stdin)
    given, folder = Path(job["given"]), Path(job["state"])
    chunks: Passages = []
    if job["build"]:
        chunks = json.loads((given / "texts.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    build = {"langchain": langchain, "llamaindex": llamaindex}[job["peer"]]
    embed = embedder(job)
    ask = build(folder, embed, chunks, np.load(given / "vectors.npy", mmap_mode="r"))
    ask(job["first"])
    if job["build"]:
        print(json.dumps({"chunks": len(chunks)}))
    else:
        serve(ask)


if __name__ == "__main__":
    main()

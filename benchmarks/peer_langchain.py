"""One refresh by LangChain: `index()` with its record manager, into Chroma. Run by `peers.run_peer`."""

# ruff: noqa: E402 - the clock starts before the imports
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

began = time.perf_counter()
sys.path.insert(0, str(Path(__file__).parent))
os.environ["ANONYMIZED_TELEMETRY"] = "False"
from langchain_chroma import Chroma
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_text_splitters import RecursiveCharacterTextSplitter

from free_embedder import FreeEmbedder


class Free(Embeddings):
    def __init__(self) -> None:
        self.inner = FreeEmbedder()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.inner.embed(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.inner.embed([text])[0].tolist()


def main(docs: Path, state: Path) -> None:
    state.mkdir(parents=True, exist_ok=True)
    imported, cpu = time.perf_counter(), time.process_time()
    free = Free()
    store = Chroma("docs", embedding_function=free, persist_directory=str(state / "chroma"))
    records = SQLRecordManager("chroma/docs", db_url=f"sqlite:///{state / 'records.db'}")
    records.create_schema()
    splitter = RecursiveCharacterTextSplitter(chunk_size=800, chunk_overlap=0)
    documents = [
        Document(path.read_text(encoding="utf-8"), metadata={"source": str(path)})
        for path in sorted(docs.rglob("*.md"))
    ]
    chunks = splitter.split_documents(documents)
    index(chunks, records, store, cleanup="full", source_id_key="source", batch_size=5000, key_encoder="sha256")
    run = time.perf_counter() - imported
    held = store._collection.count()
    print(
        json.dumps(
            {
                "import_s": imported - began,
                "run_s": run,
                "cpu_s": time.process_time() - cpu,
                "embedded": free.inner.embedded,
                "chunks": held,
            }
        )
    )


job = json.load(sys.stdin)
main(Path(job["docs"]), Path(job["state"]))

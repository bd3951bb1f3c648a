"""One refresh by LlamaIndex: a pipeline with document store and cache, into Chroma. Run by `peers.run_peer`."""

# ruff: noqa: E402 - the clock starts before the imports
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

began = time.perf_counter()
sys.path.insert(0, str(Path(__file__).parent))
os.environ["ANONYMIZED_TELEMETRY"] = "False"
import chromadb
from llama_index.core import SimpleDirectoryReader
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.chroma import ChromaVectorStore

from free_embedder import FreeEmbedder

free = FreeEmbedder()


class Free(BaseEmbedding):
    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return free.embed(texts).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def main(docs: Path, state: Path) -> None:
    imported, cpu = time.perf_counter(), time.process_time()
    collection = chromadb.PersistentClient(str(state / "chroma")).get_or_create_collection("docs")
    # Chroma takes 5,461 records a call, which its adapter does not know: above that it fails after all embedding.
    options: dict[str, Any] = {"chroma_collection": collection}
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=200, chunk_overlap=0), Free(embed_batch_size=256)],
        vector_store=ChromaVectorStore(**options),
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    if (state / "pipeline").exists():
        pipeline.load(str(state / "pipeline"))
    documents = SimpleDirectoryReader(str(docs), recursive=True, filename_as_id=True, required_exts=[".md"]).load_data()
    failed = None
    try:
        pipeline.run(documents=documents)
    except Exception as error:  # noqa: BLE001 - what the peer does here is the finding
        failed = f"{type(error).__name__}: {str(error)[:80]}"
    pipeline.persist(str(state / "pipeline"))
    run = time.perf_counter() - imported
    result = {"import_s": imported - began, "run_s": run, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**result, "embedded": free.embedded, "chunks": collection.count(), "failed": failed}))


job = json.load(sys.stdin)
main(Path(job["docs"]), Path(job["state"]))

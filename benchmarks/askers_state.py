"""What the askers ask: the index of 100,000 chunks under a registered chain, and the same chunks for peers.

The index is `scale_corpus`'s, whose vectors are real embeddings moved a little; here it is said to be the real
embedder's, so that the real server opens it and embeds questions for it. Nothing is embedded anew.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import question_sets, scale_corpus
from llmops.core.state import StateConfig
from llmops.rag.config import EmbeddingConfig, RagConfig
from llmops.rag.embed import EmbedderSpec, open_embedder, resolve
from llmops.rag.index.reader import Index
from llmops.rag.manifest import CURRENT, FILE_NAME, Manifest

ROOT = scale_corpus.ROOT / "askers"
STATE = StateConfig(dir=ROOT / ".llmops")
CACHE = question_sets.ROOT / "state" / "cache"
WORDS = 10


def prepared() -> EmbedderSpec:
    """The state of `llmops serve` in `ROOT`: index, champion and embedder's cache. Made once."""
    spec = resolve(EmbeddingConfig(), CACHE)
    folder = STATE.index(RagConfig().index.name)
    if not (folder / FILE_NAME).exists():
        _copy(_source(), folder, spec)
    if not STATE.cache.exists():
        shutil.copytree(CACHE, STATE.cache)
    from llmops.rag.packaging import register_chain
    from llmops.registry.assets import Registry

    with Registry(STATE) as registry:
        register_chain(RagConfig(state=STATE), registry)
    return spec


def questions(count: int) -> list[str]:
    """The beginnings of so many different sentences that stand in the corpus, so that most have an answer to quote."""
    beginnings = (" ".join(text.split()[:WORDS]) for text in scale_corpus.sentences())
    chosen = list(dict.fromkeys(beginnings))
    random.Random(6).shuffle(chosen)
    return chosen[:count]


def handed_over(spec: EmbedderSpec, asked: list[str]) -> Path:
    """What a peer is given: texts and vectors of all chunks, and the vectors of the questions by the real embedder."""
    folder = ROOT / "given"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "texts.json").exists():
        index = Index.open(STATE, RagConfig().index.name, None)
        reader = index.reader()
        rows = np.arange(reader.size)
        chunks = reader.chunks(rows)
        np.save(folder / "vectors.npy", reader._snapshot.vectors[reader._snapshot.slots[rows]])
        index.close()
        texts = [{"text": chunk.text, "uri": chunk.uri, "start": chunk.start} for chunk in chunks]
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    embedder = open_embedder(spec, CACHE)
    (folder / "questions.json").write_text(json.dumps(asked), encoding="utf-8")
    np.save(folder / "questions.npy", np.stack([embedder.embed_query(text) for text in asked]))
    return folder


def _source() -> Path:
    """The scale benchmark's index, as it is or made now."""
    config, state = scale_corpus.index_of(scale_corpus.FILES)
    folder = state.index(config.name)
    if not (folder / FILE_NAME).exists():
        scale_corpus.real_vectors()
        scale_corpus.ingest(scale_corpus.FILES)
    return folder


def _copy(source: Path, folder: Path, spec: EmbedderSpec) -> None:
    print(f"copying {source.name}", file=sys.stderr, flush=True)
    partly = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    before, after = (sqlite3.connect(place / FILE_NAME) for place in (source, partly))
    before.backup(after)
    before.close()
    after.close()
    shutil.copytree(source / "vectors", partly / "vectors")
    manifest = Manifest.open(STATE, partly.name)
    name = manifest.fact(CURRENT)
    assert name is not None
    number = manifest.generation(name)
    settings: dict[str, Any] = {**manifest.settings(number)}
    synthetic, settings["embedder"], settings["embedder_spec"] = settings["embedder"], spec.fingerprint, asdict(spec)
    with manifest.transaction():
        manifest.db.execute("UPDATE generations SET settings = ? WHERE number = ?", (json.dumps(settings), number))
        manifest.db.execute("UPDATE arenas SET embedder = ? WHERE embedder = ?", (spec.fingerprint, synthetic))
    manifest.close()
    partly.replace(folder)

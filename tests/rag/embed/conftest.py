"""The packaged model, chosen and exported for real, once a session; and sentence-transformers' own output beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.rag.config import EmbeddingConfig
from llmops.rag.embed import Embedder, EmbedderSpec, open_embedder, resolve
from llmops.rag.embed.loader import ModelFiles, load, locate, quiet

CONFIG = EmbeddingConfig()


@pytest.fixture(scope="session")
def cache(embedder_cache: Path) -> Path:
    return embedder_cache


@pytest.fixture(scope="session")
def spec(cache: Path) -> EmbedderSpec:
    return resolve(CONFIG, cache)


@pytest.fixture(scope="session")
def embedder(spec: EmbedderSpec, cache: Path) -> Embedder:
    return open_embedder(spec, cache)


@pytest.fixture(scope="session")
def files() -> ModelFiles:
    return locate(CONFIG.model)


@pytest.fixture(scope="session")
def loaded(files: ModelFiles) -> Any:
    """The model as sentence-transformers loads it."""
    return load(files)


@pytest.fixture(scope="session")
def reference(loaded: Any) -> Callable[[list[str]], np.ndarray]:
    """Sentence-transformers' own embeddings, float32."""

    def encode(texts: list[str]) -> np.ndarray:
        with quiet():
            return np.asarray(loaded.encode(texts, normalize_embeddings=True, show_progress_bar=False))

    return encode

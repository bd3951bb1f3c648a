"""A cross-encoder by name: reads question and passage together, and says how well one answers the other.

sentence-transformers loads it, safetensors only. Knows models; what becomes of the scores is retrieval's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.rag.embed.loader import locate, quiet

_BATCH = 32


class CrossEncoder:
    """Safe to share between threads."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """One score a passage, higher is better."""
        with quiet():
            scores = self._model.predict(
                [(question, passage) for passage in passages], batch_size=_BATCH, show_progress_bar=False
            )
        return np.asarray(scores, dtype=np.float32).reshape(len(passages))


def open_cross_encoder(name: str) -> CrossEncoder:
    """Load a cross-encoder: a name of the hub (`cross-encoder/...`) or a folder.

    Raises:
        UserError: there is no such model, or it has no safetensors weights.
        UnavailableError: the hub cannot be reached.
    """
    files = locate(name)
    with quiet():
        from sentence_transformers import CrossEncoder as Model

        return CrossEncoder(
            Model(
                str(files.folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": "float32"},
            )
        )

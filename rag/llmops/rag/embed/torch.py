"""The torch backend: sentence-transformers itself, in length-sorted batches. What runs where nothing faster is exact.

Knows torch's devices and autocast. Slow to import: opened only when chosen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.core.errors import IntegrityError
from llmops.rag.embed.loader import ModelFiles, load, quiet
from llmops.rag.embed.spec import EmbedderSpec

if TYPE_CHECKING:
    from llmops.rag.embed.spec import Vectors

_LONGEST_TEXT = 100_000
_WINDOW = 4096


class TorchEmbedder:
    """A sentence-transformers model; one thread computes at a time, since torch itself uses every core."""

    def __init__(self, spec: EmbedderSpec, files: ModelFiles, *, batch_tokens: int, model: Any = None) -> None:
        """Load the model, or take a loaded one.

        Raises:
            IntegrityError: its files are not those the spec names.
        """
        if (files.weights_sha256, files.files_sha256) != (spec.weights_sha256, spec.files_sha256):
            raise IntegrityError(
                f"the files of the model `{spec.model}` have changed",
                where=str(files.folder),
                hint="ingest again: a new generation is built with the new files",
            )
        self.fingerprint = spec.fingerprint
        self.dimension = spec.dimension
        self._model = model if model is not None else load(files, spec.device)
        self._device = spec.device
        self._bf16 = spec.precision == "bf16"
        self._batch = max(1, batch_tokens // max(spec.max_length, 1))
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> Vectors:
        out = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _WINDOW):
            window = [_encodable(text) for text in texts[start : start + _WINDOW]]
            order = np.argsort([-len(text) for text in window], kind="stable")
            for place in range(0, len(order), self._batch):
                chosen = order[place : place + self._batch]
                out[chosen + start] = self._encode(self._model.encode_document, [window[n] for n in chosen])
                if on_batch:
                    on_batch(len(chosen))
        return out

    def embed_query(self, text: str) -> Vectors:
        vector: Vectors = self._encode(self._model.encode_query, [_encodable(text)])[0]
        return vector

    def _encode(self, encode: Callable[..., Any], texts: list[str]) -> Vectors:
        import torch

        kind = torch.bfloat16
        with self._lock, quiet(), torch.autocast(self._device, kind, enabled=self._bf16):
            tensor = encode(
                texts,
                batch_size=len(texts),
                convert_to_tensor=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        vectors: Vectors = tensor.float().cpu().numpy()
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        return unit


def _encodable(text: str) -> str:
    return text[:_LONGEST_TEXT].encode("utf-8", "replace").decode()

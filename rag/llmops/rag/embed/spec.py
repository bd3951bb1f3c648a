"""What an embedder is, and the facts that decide its vectors. Light: imported by whoever only names one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from llmops.core.ids import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_RULES = 1
"""Raised when the code itself changes what a text becomes."""


@dataclass(frozen=True)
class EmbedderSpec:
    """One embedder, pinned: the same spec gives the same vectors on any machine, up to rounding.

    All fields are JSON values. `files_sha256` covers the tokenizer and the model's own configuration, `max_length`
    counts tokens.
    """

    model: str
    weights_sha256: str
    files_sha256: str
    backend: Literal["openvino", "torch"]
    precision: Literal["f32", "bf16"]
    device: Literal["cpu", "cuda"]
    dimension: int
    max_length: int
    pooling: str

    @property
    def fingerprint(self) -> str:
        """Equal for embedders whose vectors may lie in one index; the model's name and place do not count."""
        parts = [_RULES, self.weights_sha256, self.files_sha256, self.backend, self.precision, self.device]
        return digest([*parts, self.dimension, self.max_length, self.pooling])[:32]


class Embedder(Protocol):
    """An open embedder. Safe to call from several threads at once."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> Vectors:
        """Embed documents: float32 (n, dimension), unit norm, in the order of `texts`.

        Args:
            on_batch: told how many more texts are done, in the caller's thread; what it raises ends the work.
        """
        ...

    def embed_query(self, text: str) -> Vectors:
        """Embed a question: float32 (dimension,), unit norm."""
        ...

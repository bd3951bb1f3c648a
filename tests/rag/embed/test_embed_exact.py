"""The gate lets rounding pass and keeps quantisation out."""

from __future__ import annotations

import numpy as np
import pytest

from llmops.rag.embed.exact import PROBES, cosine_error, is_exact, neighbour_ndcg


@pytest.fixture
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(7).normal(size=(len(PROBES), 384)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def verdict(reference: np.ndarray, candidate: np.ndarray) -> bool:
    return is_exact(cosine_error(reference, candidate), neighbour_ndcg(reference, candidate))


def test_the_same_and_rounded_vectors_pass(vectors: np.ndarray) -> None:
    rounded = (vectors.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert cosine_error(vectors, vectors) == pytest.approx(0.0, abs=1e-7)
    assert neighbour_ndcg(vectors, vectors) == pytest.approx(1.0)
    assert verdict(vectors, rounded)


def test_noise_of_the_size_of_dynamic_int8_is_refused(vectors: np.ndarray) -> None:
    noise = np.random.default_rng(8).normal(size=vectors.shape).astype(np.float32)
    noise *= np.sqrt(2 * 1.5e-2) / np.linalg.norm(noise, axis=1, keepdims=True)
    assert cosine_error(vectors, vectors + noise) == pytest.approx(1.5e-2, rel=0.3)
    assert not verdict(vectors, vectors + noise)


def test_rows_in_the_wrong_order_and_broken_numbers_are_refused(vectors: np.ndarray) -> None:
    assert not verdict(vectors, vectors[::-1])
    broken = vectors.copy()
    broken[3, 5] = np.nan
    assert not verdict(vectors, broken)


def test_probes_differ() -> None:
    assert len(set(PROBES)) == len(PROBES)

"""When a faster backend may stand in for the loader: its vectors and its ranking must be the loader's.

Knows probe texts and two bounds. Int8 models fail it by design: dynamic quantisation of a model of this size was
measured at a cosine error of 1.5e-2 and an nDCG loss of .005.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_COSINE_ERROR = 1e-3
LEAST_NDCG = 0.998

_SENTENCES = (
    "The committee approved the annual budget after a long debate.",
    "How do I reset the password of a service account?",
    "Mitochondria turn nutrients into adenosine triphosphate.",
    "error: connection refused while reading response header from upstream",
    "Interest rates rose by 25 basis points in the third quarter.",
    "A vector index must equal a build from scratch after every refresh.",
    "The first president of the association was elected in 1892.",
    "Der Vertrag endet mit einer Frist von drei Monaten.",
    "def merge(left, right): return sorted([*left, *right])",
    "Patients receiving the treatment showed a 12% reduction in mortality.",
    "東京は日本の首都です。",
    "What is the capital of the state that borders Georgia to the south?",
    "Store opening hours are 9:00-18:00, Monday to Friday.",
    "The lighthouse keeper wrote down the weather every morning.",
    "Refunds are paid to the original card within ten working days.",
    "Quantum error correction protects information from decoherence.",
    "Please restart the router and wait for the green light ✅ before you try again.",
    "In vitro studies suggest that the protein inhibits tumour growth.",
    "The train to Geneva leaves from platform four.",
    "A covenant restricts how much debt the company may take on.",
    "Chapter 7. Maintenance of hydraulic pumps and valves",
    "He played the cello in the city's youth orchestra until he was nineteen.",
    "Rainfall in the delta is highest between June and September.",
    "x",
)

PROBES: tuple[str, ...] = (
    "",
    *_SENTENCES,
    *(" ".join(_SENTENCES[(n + step) % 24] for step in range(5)) for n in range(0, 24, 2)),
    *(" ".join(_SENTENCES[(n * 5 + step * 7) % 24] for step in range(24)) for n in range(5)),
)
"""From nothing to past the longest input, as questions, prose, code and other scripts."""


def cosine_error(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """The largest 1 - cosine between two rows of the same number; infinite where a value is not finite."""
    if not np.isfinite(candidate).all():
        return float("inf")
    return float((1.0 - (_unit(reference) * _unit(candidate)).sum(axis=1)).max())


def neighbour_ndcg(reference: NDArray[np.float32], candidate: NDArray[np.float32], depth: int = 10) -> float:
    """Mean nDCG of each row's neighbours as the candidate ranks them, judged by the reference's similarities.

    Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002.
    """
    if not np.isfinite(candidate).all():
        return 0.0
    truth, ranking = _similarities(reference), _similarities(candidate)
    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    best = -np.sort(-truth, axis=1)[:, :depth]
    order = np.argsort(-ranking, axis=1, kind="stable")[:, :depth]
    gained = np.take_along_axis(truth, order, axis=1)
    return float(((gained * discount).sum(axis=1) / (best * discount).sum(axis=1)).mean())


def is_exact(error: float, ndcg: float) -> bool:
    return error <= MOST_COSINE_ERROR and ndcg >= LEAST_NDCG


def _similarities(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pairwise cosine, cut at 0; no row is its own neighbour."""
    unit = _unit(vectors)
    similar = np.maximum(unit @ unit.T, 1e-9)
    np.fill_diagonal(similar, 0.0)
    return similar


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit

"""Which source each draw of an epoch is from, so that the shares are exact and spread evenly.

Knows numbers only. Two runs with the same counts draw the same, whatever machine they run on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def shares(weights: Sequence[float], total: int) -> list[int]:
    """How many of `total` draws are each source's: in proportion, by the largest remainders; the sum is exact."""
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    found = np.floor(exact).astype(np.int64)
    for place in np.argsort(found - exact, kind="stable")[: total - int(found.sum())]:
        found[place] += 1
    return [int(one) for one in found]


def spread(counts: Sequence[int]) -> npt.NDArray[np.int32]:
    """The source of each draw, `counts[i]` of them source i's, each source's as far apart as they can be."""
    moments = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    sources = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return sources[np.lexsort((sources, moments))]

"""Which examples nearly equal another: by MinHash, and each suspicion checked by the exact similarity.

Similarity is Jaccard's, over the runs of three words of all that is said. Examples are gone through in the order of
their ids, so the same ones stay whatever order files are read in. The module that knows datasketch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from llmops.finetune.data.examples import Example
from llmops.finetune.data.words import Hashes, passages, shingles

_WORDS = 3
_PERMUTATIONS = 128
_MISSED, _SUSPECTED = 0.9, 0.1  # a pair that is missed stays in the data; one suspected in vain costs one comparison


def near_duplicates(
    examples: Sequence[Example],
    threshold: float,
    *,
    first: Sequence[Example] = (),
    listen: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """The id of each example that nearly equals another, with the id of that other one, which stays.

    Args:
        threshold: similarity from which two are one.
        first: examples that stay in any case (those held out): what equals one of them goes.
        listen: told how many are done.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(
        threshold=threshold, num_perm=_PERMUTATIONS, weights=(_SUSPECTED, _MISSED)
    )  # fmt: skip
    empty = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
    kept: dict[str, Hashes] = {}
    found: dict[str, str] = {}
    staying = {example.id for example in first}
    for done, example in enumerate([*_by_id(first), *_by_id(examples)]):
        if listen is not None and done % 1000 == 0:
            listen(done)
        runs = _runs(example)
        if example.id in kept or not len(runs):
            continue
        sketch = _sketch(empty, runs)
        nearest = max(index.query(sketch), key=lambda one: (_jaccard(runs, kept[one]), one), default=None)
        if example.id not in staying and nearest is not None and _jaccard(runs, kept[nearest]) >= threshold:
            found[example.id] = nearest
        else:
            kept[example.id] = runs
            index.insert(example.id, sketch)
    return found


def _by_id(examples: Iterable[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: example.id)


def _runs(example: Example) -> Hashes:
    return np.unique(shingles("\n".join(passages(example)), _WORDS))


def _sketch(empty: Any, runs: Hashes) -> Any:
    sketch = empty.copy()
    sketch.update_batch((runs >> np.uint64(32)).tolist())
    return sketch


def _jaccard(one: Hashes, other: Hashes) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)

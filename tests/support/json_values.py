"""Arbitrary JSON, as a hostile client or a broken server could send it, for tests that feed translators."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A slow machine is no failure."""

thoroughly = settings(patiently, max_examples=5000 if os.environ.get("LLMOPS_SOAK") else 100)
"""For tests that feed translators anything at all."""

TEXT = st.text(max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
CUTS = st.lists(st.integers(0, 10_000), max_size=20)


def objects(names: tuple[str, ...], values: tuple[str, ...] = ()) -> st.SearchStrategy[dict[str, Any]]:
    """Nested objects made of a format's own names and words, so that most of a translator is reached."""
    keys = st.sampled_from(names)
    leaves = SCALARS | st.sampled_from(values) if values else SCALARS
    inner = st.recursive(
        leaves, lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(keys, deeper, max_size=5), max_leaves=20
    )
    return st.dictionaries(keys, inner, max_size=7).map(lambda value: orjson.loads(orjson.dumps(value)))


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    """`raw` as a network might deliver it."""
    ends = sorted({cut % (len(raw) + 1) for cut in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in itertools.pairwise(ends)]


WRONG: tuple[Any, ...] = (None, [], {}, 5, -1, "x", True, [5], [[]], {"x": []})


def mutants(value: Any) -> Iterator[Any]:
    """`value` with one thing in it, at any depth, of another kind or gone: what random JSON rarely comes near."""
    yield from WRONG
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {key: kept for key, kept in value.items() if key != name}
            for wrong in mutants(inner):
                yield {**value, name: wrong}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            for wrong in mutants(inner):
                yield [*value[:index], wrong, *value[index + 1 :]]

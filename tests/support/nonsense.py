"""Hypothesis strategies for hostile JSON: any value at all, and values made of the words a format knows.

Random JSON seldom gets past a translator's first check; the words of the format lead it to the deep ones.
"""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import strategies as st

EXAMPLES = 1500 if os.environ.get("LLMOPS_SOAK") else 80
"""How many values a fuzz test tries."""

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
ARGUMENTS = st.dictionaries(NAMES, TEXT | st.integers(-1000, 1000) | st.lists(TEXT, max_size=2), max_size=3)


def objects(words: str, values: str = "") -> st.SearchStrategy[dict[str, Any]]:
    """Nested objects whose keys, and some values, are of these words."""
    keys = st.sampled_from(words.split())
    leaves = JSON | keys | st.sampled_from((values or words).split())
    inside = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=20,
    )
    return st.dictionaries(keys, inside, max_size=6)


def event_streams(words: str, kinds: str = "") -> st.SearchStrategy[bytes]:
    """Server-sent events of such objects, or any bytes at all."""
    events = st.lists(st.tuples(objects(words), st.sampled_from(kinds.split() or [""])), max_size=6)

    def streamed(found: list[tuple[dict[str, Any], str]]) -> bytes:
        told = [{**value, "type": kind} if kind else value for value, kind in found]
        return b"".join(b"event: x\ndata: " + json.dumps(value).encode() + b"\n\n" for value in told)

    return events.map(streamed) | st.binary(max_size=200)


def documents(words: str) -> st.SearchStrategy[bytes]:
    """JSON documents of such objects, or any bytes at all."""
    return objects(words).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100)

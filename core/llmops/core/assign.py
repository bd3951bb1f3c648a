"""Sticky assignment of a unit to an arm of an experiment: pure, so every layer and every replay agrees.

A unit's bucket is a hash of (salt, unit); arms are nested ranges over the buckets, so widening a canary from 1% to 5%
keeps the first 1% in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llmops.core.errors import UserError

BUCKETS = 1_000_000


def bucket(unit_id: str, salt: str) -> int:
    """The unit's place in [0, BUCKETS): the first 8 bytes of SHA-256(salt NUL unit), big-endian, modulo BUCKETS."""
    hashed = hashlib.sha256(f"{salt}\0{unit_id}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") % BUCKETS


def assign(unit_id: str, salt: str, arms: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """Pick the arm of a unit, and the probability with which such a unit gets it (its propensity).

    Args:
        arms: (name, share) pairs; shares sum to 1. Put the arm that grows first: its range starts at bucket 0.
    """
    if not arms or abs(sum(share for _, share in arms) - 1.0) > 1e-9 or any(share < 0 for _, share in arms):
        raise UserError("the shares of the arms must be >= 0 and sum to 1", where=str(list(arms)))
    place = bucket(unit_id, salt) / BUCKETS
    edge = 0.0
    for name, share in arms:
        edge += share
        if place < edge:
            return name, share
    return next((name, share) for name, share in reversed(arms) if share > 0)

"""Waits for what a test is about, for as long as a slow machine may need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(check: Callable[[], Value], patience_s: float = 60) -> Value:
    """The first true value of `check`; fails when none comes."""
    deadline = time.monotonic() + patience_s
    while not (value := check()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return value

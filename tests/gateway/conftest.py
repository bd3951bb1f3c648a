"""What all tests of the gateway live under: the object that usual requests share refuses to be written to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmops.gateway import compiled
from llmops.gateway.engine.seldom import USUAL, Seldom


class Shared(Seldom):
    """Reads as any, and refuses to be written to: what one request wrote, all others would have."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"`{name}` is one request's own: write to `call.own()`")


@pytest.fixture(scope="session", autouse=True)
def nobody_writes_to_what_all_share() -> Iterator[None]:
    if compiled.running() == "compiled":  # machine code writes without asking
        yield
        return
    USUAL.__class__ = Shared
    yield
    object.__setattr__(USUAL, "__class__", Seldom)

"""Careful reading of JSON that came from outside, so that a wrong shape is a named fault and never a crash.

Knows shapes only, no provider's format. `CALLER` blames the request (`bad_request`, with the parameter's path),
`UPSTREAM` blames the provider's reply (`invalid`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from llmops.gateway.calls import Fault, Json

MOST: Final = 2**31
"""No count of tokens or things in one reply comes near; priced, it still fits the 64 bits of journals and tables."""


@dataclass(slots=True, frozen=True)
class Reading:
    """Whose JSON is read decides what is said when it is not what it should be."""

    kind: Literal["bad_request", "invalid"]

    def fault(self, where: str, message: str) -> Fault:
        if self.kind == "invalid":
            return Fault("invalid", f"the provider's reply cannot be read: `{where}` {message}")
        return Fault("bad_request", f"`{where}` {message}", 400, code="invalid_request", param=where)

    def parsed(self, data: bytes | str, where: str) -> Any:
        try:
            return orjson.loads(data)
        except (orjson.JSONDecodeError, RecursionError):
            raise self.fault(where, "is not valid JSON") from None

    def object(self, value: Any, where: str) -> Json:
        if isinstance(value, dict):
            return value
        raise self.fault(where, "must be an object")

    def objects(self, value: Any, where: str) -> list[Json]:
        """A list of objects; None reads as an empty list."""
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fault(where, "must be a list")
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.fault(f"{where}.{number}", "must be an object")
        return value

    def text(self, value: Any, where: str) -> str:
        if isinstance(value, str):
            return value
        raise self.fault(where, "must be a string")

    def optional_text(self, value: Any, where: str) -> str | None:
        return None if value is None else self.text(value, where)

    def count(self, value: Any, where: str) -> int:
        """A number of things, 0 or more; None reads as 0. Some providers write whole numbers as floats."""
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST:
            return value
        raise self.fault(where, "must be a whole number of at least 0, and of a sane size")

    def number(self, value: Any, where: str) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        raise self.fault(where, "must be a number")


CALLER = Reading("bad_request")
UPSTREAM = Reading("invalid")


def dumped(value: Any) -> bytes:
    """JSON bytes of what was read before, or built from it.

    Raises:
        Fault: `bad_request` for what JSON text cannot hold (a lone surrogate, a number beyond 64 bits).
    """
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise CALLER.fault("body", "holds text or numbers that cannot be written as JSON") from None

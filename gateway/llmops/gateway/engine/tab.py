"""What one request holds of its ceilings, and what it has spent so far.

The first attempt's worst case is reserved before anything is sent. A further attempt after one that cost something
reserves what is missing; a fallback route's own ceilings join when it is asked. All of it is settled once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmops.gateway.calls import Allowances, Meter, Reservation, Usage

_CONSUMED: Final = ("usd", "tokens")


@dataclass(slots=True)
class _Guest:
    """The reservation at a fallback route, and what had been spent before its turn."""

    meters: tuple[Meter, ...]
    reservation: Reservation
    nano_before: int
    tokens_before: int


class Tab:
    """The reservations of one request."""

    __slots__ = (
        "_allowances", "_first", "_guests", "_meters", "_more", "_reserved_nano", "_reserved_tokens", "nano_usd",
        "tokens",
    )  # fmt: skip

    def __init__(self, allowances: Allowances, meters: Sequence[Meter]) -> None:
        self._allowances = allowances
        self._meters = meters
        self._first: Reservation | None = None
        self._more: list[tuple[Reservation, int, int]] | None = None
        self._guests: list[_Guest] | None = None
        self.nano_usd = 0
        self.tokens = 0

    def try_cover(self, worst_nano: int, worst_tokens: int) -> bool:
        """Reserve what an attempt may use beyond what is held; False where the shared store must be asked.

        Raises:
            Refused: a ceiling is reached.
        """
        meters = self._meters
        if not meters:
            return True
        if self._first is None:
            first = self._first = self._allowances.try_reserve(meters, worst_nano, worst_tokens)
            self._reserved_nano, self._reserved_tokens = worst_nano, worst_tokens
            return first is not None
        consumed, nano, tokens = self._missing(worst_nano, worst_tokens)
        if not consumed:
            return True
        reservation = self._allowances.try_reserve(consumed, nano, tokens)
        if reservation is None:
            return False
        self._add(reservation, nano, tokens)
        return True

    async def cover(self, worst_nano: int, worst_tokens: int) -> None:
        """Like `try_cover`, asking the shared store."""
        if not self._meters:
            return
        if self._first is None:
            self._reserved_nano, self._reserved_tokens = worst_nano, worst_tokens
            self._first = await self._allowances.reserve(self._meters, worst_nano, worst_tokens)
            return
        consumed, nano, tokens = self._missing(worst_nano, worst_tokens)
        if consumed:
            self._add(await self._allowances.reserve(consumed, nano, tokens), nano, tokens)

    def knows_guest(self, meters: tuple[Meter, ...]) -> bool:
        """Whether nothing need be reserved of a fallback route's own ceilings."""
        return not meters or any(guest.meters == meters for guest in self._guests or ())

    async def cover_guest(self, meters: tuple[Meter, ...], worst_nano: int, worst_tokens: int) -> None:
        """Reserve from the own ceilings of a fallback route."""
        reservation = await self._allowances.reserve(meters, worst_nano, worst_tokens)
        self._guests = [*(self._guests or ()), _Guest(meters, reservation, self.nano_usd, self.tokens)]

    def book(self, nano_usd: int, usage: Usage) -> None:
        """An attempt used this."""
        self.nano_usd += nano_usd
        self.tokens += usage.input_tokens + usage.output_tokens

    def settle(self, asked: bool) -> None:
        """End all reservations; `asked`: whether any upstream was. A second call does nothing."""
        first, self._first = self._first, None
        if first is None:
            return
        if not asked:
            first.release()
        elif self._more is None:
            first.settle(self.nano_usd, self.tokens)
        else:
            first.settle(min(self.nano_usd, self._reserved_nano), min(self.tokens, self._reserved_tokens))
        if self._more is not None or self._guests is not None:
            self._settle_more(asked)

    def _settle_more(self, asked: bool) -> None:
        """What the first reservation does not hold belongs to those that followed, the last one past its size."""
        more, self._more = self._more or [], None
        guests, self._guests = self._guests or [], None
        nano = max(0, self.nano_usd - self._reserved_nano)
        tokens = max(0, self.tokens - self._reserved_tokens)
        for place, (reservation, part_nano, part_tokens) in enumerate(more, 1):
            last = place == len(more)
            now_nano, now_tokens = (nano, tokens) if last else (min(nano, part_nano), min(tokens, part_tokens))
            nano -= now_nano
            tokens -= now_tokens
            reservation.settle(now_nano, now_tokens)
        for guest in guests:
            if asked:
                guest.reservation.settle(self.nano_usd - guest.nano_before, self.tokens - guest.tokens_before)
            else:
                guest.reservation.release()

    def _missing(self, worst_nano: int, worst_tokens: int) -> tuple[tuple[Meter, ...], int, int]:
        """What else to reserve, and from which ceilings; none where what is held suffices."""
        nano = max(0, self.nano_usd + worst_nano - self._reserved_nano - sum(n for _, n, _ in self._more or ()))
        tokens = max(0, self.tokens + worst_tokens - self._reserved_tokens - sum(t for *_, t in self._more or ()))
        if not (nano or tokens):
            return (), 0, 0
        return tuple(meter for meter in self._meters if meter.what in _CONSUMED), nano, tokens

    def _add(self, reservation: Reservation, nano: int, tokens: int) -> None:
        self._more = [*(self._more or ()), (reservation, nano, tokens)]

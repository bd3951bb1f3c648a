"""What one request holds of its ceilings, and what it has spent so far.

The first attempt's worst case is reserved before anything is sent. A further attempt after one that cost something
reserves what is missing; a fallback route's own ceilings join when it is asked. All of it is settled once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from llmops.gateway.calls import Allowances, Meter, Reservation, Usage

_CONSUMED: Final = ("usd", "tokens")


Part = tuple[Reservation, int, int]
"""A reservation with the money and tokens that it covers."""


@dataclass(slots=True)
class _Guest:
    """What is held of a fallback route's own ceilings, and what was spent there: its own attempts, no other route's."""

    meters: tuple[Meter, ...]
    parts: list[Part] = field(default_factory=list)
    nano_usd: int = 0
    tokens: int = 0

    def missing(self, worst_nano: int, worst_tokens: int) -> tuple[int, int]:
        nano = self.nano_usd + worst_nano - sum(part[1] for part in self.parts)
        tokens = self.tokens + worst_tokens - sum(part[2] for part in self.parts)
        return max(0, nano), max(0, tokens)


class Tab:
    """The reservations of one request."""

    __slots__ = (
        "_allowances", "_first", "_guests", "_meters", "_more", "_over", "_reserved_nano", "_reserved_tokens",
        "nano_usd", "tokens",
    )  # fmt: skip

    def __init__(self, allowances: Allowances, meters: Sequence[Meter]) -> None:
        self._allowances = allowances
        self._meters = meters
        self._first: Reservation | None = None
        self._more: list[Part] | None = None
        self._guests: list[_Guest] | None = None
        self._over = False
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
            first = await self._allowances.reserve(self._meters, worst_nano, worst_tokens)
            if not self._late(first):
                self._first = first
                self._reserved_nano, self._reserved_tokens = worst_nano, worst_tokens
            return
        consumed, nano, tokens = self._missing(worst_nano, worst_tokens)
        if consumed:
            reservation = await self._allowances.reserve(consumed, nano, tokens)
            if not self._late(reservation):
                self._add(reservation, nano, tokens)

    def knows_guest(self, meters: tuple[Meter, ...], worst_nano: int, worst_tokens: int) -> bool:
        """Whether nothing need be reserved of a fallback route's own ceilings."""
        if not meters:
            return True
        guest = self._guest(meters)
        return guest is not None and not (_consumed(meters) and any(guest.missing(worst_nano, worst_tokens)))

    async def cover_guest(self, meters: tuple[Meter, ...], worst_nano: int, worst_tokens: int) -> None:
        """Reserve from the own ceilings of a fallback route; for a further attempt there, what is missing."""
        guest = self._guest(meters)
        wanted, (nano, tokens) = meters, (worst_nano, worst_tokens)
        if guest is not None:
            wanted, (nano, tokens) = _consumed(meters), guest.missing(worst_nano, worst_tokens)
        reservation = await self._allowances.reserve(wanted, nano, tokens)
        if self._late(reservation):
            return
        if guest is None:
            guest = _Guest(meters)
            self._guests = [*(self._guests or ()), guest]
        guest.parts.append((reservation, nano, tokens))

    def book(self, nano_usd: int, usage: Usage, at: tuple[Meter, ...] = ()) -> None:
        """An attempt used this; `at`: the own ceilings of the fallback route that it was made for."""
        tokens = usage.input_tokens + usage.output_tokens
        self.nano_usd += nano_usd
        self.tokens += tokens
        if at and (guest := self._guest(at)) is not None:
            guest.nano_usd += nano_usd
            guest.tokens += tokens

    def settle(self, asked: bool) -> None:
        """End all reservations; `asked`: whether any upstream was. A second call does nothing.

        One that is still being asked for is given back when it comes.
        """
        self._over = True
        first, self._first = self._first, None
        if first is not None:
            if not asked:
                first.release()
            elif self._more is None:
                first.settle(self.nano_usd, self.tokens)
            else:
                first.settle(min(self.nano_usd, self._reserved_nano), min(self.tokens, self._reserved_tokens))
        if self._more is not None or self._guests is not None:
            self._settle_more(asked)

    def _settle_more(self, asked: bool) -> None:
        """What the first reservation does not hold belongs to those that followed."""
        more, self._more = self._more or [], None
        guests, self._guests = self._guests or [], None
        if more:
            nano, tokens = self.nano_usd - self._reserved_nano, self.tokens - self._reserved_tokens
            _settle_parts(more, max(0, nano), max(0, tokens))
        for guest in guests:
            if asked:
                _settle_parts(guest.parts, guest.nano_usd, guest.tokens)
            else:
                for reservation, *_ in guest.parts:
                    reservation.release()

    def _late(self, reservation: Reservation) -> bool:
        """Give back what came after the request's end."""
        if self._over:
            reservation.release()
        return self._over

    def _guest(self, meters: tuple[Meter, ...]) -> _Guest | None:
        return next((guest for guest in self._guests or () if guest.meters == meters), None)

    def _missing(self, worst_nano: int, worst_tokens: int) -> tuple[tuple[Meter, ...], int, int]:
        """What else to reserve, and from which ceilings; none where what is held suffices."""
        nano = max(0, self.nano_usd + worst_nano - self._reserved_nano - sum(n for _, n, _ in self._more or ()))
        tokens = max(0, self.tokens + worst_tokens - self._reserved_tokens - sum(t for *_, t in self._more or ()))
        if not (nano or tokens):
            return (), 0, 0
        return _consumed(self._meters), nano, tokens

    def _add(self, reservation: Reservation, nano: int, tokens: int) -> None:
        self._more = [*(self._more or ()), (reservation, nano, tokens)]


def _consumed(meters: Sequence[Meter]) -> tuple[Meter, ...]:
    """The ceilings that a further attempt uses up."""
    return tuple(meter for meter in meters if meter.what in _CONSUMED)


def _settle_parts(parts: list[Part], nano: int, tokens: int) -> None:
    """Each takes what it covers, the last one what is left, past its size too."""
    for place, (reservation, part_nano, part_tokens) in enumerate(parts, 1):
        last = place == len(parts)
        now_nano, now_tokens = (nano, tokens) if last else (min(nano, part_nano), min(tokens, part_tokens))
        nano -= now_nano
        tokens -= now_tokens
        reservation.settle(now_nano, now_tokens)

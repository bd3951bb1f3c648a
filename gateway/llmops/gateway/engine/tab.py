"""What one request holds of its ceilings, and what it has spent so far.

The first attempt's worst case is reserved before anything is sent. A further attempt after one that cost something
reserves what is missing; a fallback route's own ceilings join when it is asked. All of it is settled once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmops.gateway.calls import Allowances, Meter, Reservation, Usage

_CONSUMED = ("usd", "tokens")


class Tab:
    """The reservations of one request."""

    __slots__ = ("_allowances", "_guests", "_held", "_meters", "nano_usd", "reserved_nano", "reserved_tokens", "tokens")

    def __init__(self, allowances: Allowances, meters: Sequence[Meter]) -> None:
        self._allowances = allowances
        self._meters = meters
        self._held: list[tuple[Reservation, int, int]] = []
        self._guests: list[tuple[tuple[Meter, ...], Reservation, int, int]] = []
        self.reserved_nano = 0
        self.reserved_tokens = 0
        self.nano_usd = 0
        self.tokens = 0

    def try_cover(self, worst_nano: int, worst_tokens: int) -> bool:
        """Reserve what an attempt may use beyond what is held; False where the shared store must be asked.

        Raises:
            Refused: a ceiling is reached.
        """
        meters, nano, tokens = self._missing(worst_nano, worst_tokens)
        if meters is None:
            return True
        reservation = self._allowances.try_reserve(meters, nano, tokens)
        if reservation is None:
            return False
        self._hold(reservation, nano, tokens)
        return True

    async def cover(self, worst_nano: int, worst_tokens: int) -> None:
        """Like `try_cover`, asking the shared store."""
        meters, nano, tokens = self._missing(worst_nano, worst_tokens)
        if meters is not None:
            self._hold(await self._allowances.reserve(meters, nano, tokens), nano, tokens)

    def knows_guest(self, meters: tuple[Meter, ...]) -> bool:
        return not meters or any(known == meters for known, *_ in self._guests)

    async def cover_guest(self, meters: tuple[Meter, ...], worst_nano: int, worst_tokens: int) -> None:
        """Reserve from the own ceilings of a fallback route, with what was spent before its turn."""
        reservation = await self._allowances.reserve(meters, worst_nano, worst_tokens)
        self._guests.append((meters, reservation, self.nano_usd, self.tokens))

    def book(self, nano_usd: int, usage: Usage) -> None:
        """An attempt used this."""
        self.nano_usd += nano_usd
        self.tokens += usage.input_tokens + usage.output_tokens

    def settle(self, asked: bool) -> None:
        """End all reservations; `asked`: whether any upstream was."""
        held, self._held = self._held, []
        guests, self._guests = self._guests, []
        if not asked:
            for reservation, *_ in held:
                reservation.release()
            for _, reservation, *_ in guests:
                reservation.release()
            return
        nano, tokens = self.nano_usd, self.tokens
        for place, (reservation, part_nano, part_tokens) in enumerate(held, 1 - len(held)):
            last = place == 0
            now_nano = nano if last else min(nano, part_nano)
            now_tokens = tokens if last else min(tokens, part_tokens)
            nano -= now_nano
            tokens -= now_tokens
            reservation.settle(now_nano, now_tokens)
        for _, reservation, nano_before, tokens_before in guests:
            reservation.settle(self.nano_usd - nano_before, self.tokens - tokens_before)

    def _missing(self, worst_nano: int, worst_tokens: int) -> tuple[Sequence[Meter] | None, int, int]:
        """What to reserve, and from which meters; None where what is held suffices."""
        meters = self._meters
        if not meters:
            return None, 0, 0
        if not self._held:
            return meters, worst_nano, worst_tokens
        nano = max(0, self.nano_usd + worst_nano - self.reserved_nano)
        tokens = max(0, self.tokens + worst_tokens - self.reserved_tokens)
        consumed = [meter for meter in meters if meter.what in _CONSUMED]
        if not consumed or not (nano or tokens):
            return None, 0, 0
        return consumed, nano, tokens

    def _hold(self, reservation: Reservation, nano: int, tokens: int) -> None:
        self._held.append((reservation, nano, tokens))
        self.reserved_nano += nano
        self.reserved_tokens += tokens

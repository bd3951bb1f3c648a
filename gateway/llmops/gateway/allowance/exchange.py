"""What a worker and the shared store say to each other: asks and answers about accounts, and who keeps them.

An *account* is one ceiling as the store books it: a meter, and for money the period too. A *lease* is the part of an
account that one worker (the *holder*) was given. Three kinds:

- `usd`: ceiling >= spent + leased, always. What a holder used moves from leased to spent; what it gives back is free.
- `slots`: requests under way. ceiling >= leased; nothing is ever spent.
- `rate`: requests or tokens in any 60 seconds. What is granted is counted under the moment until which it may be used
  at the latest, and counts until 60 s after that moment. The sum of all that counts never passes the ceiling, hence
  nor does any window: of what is admitted in a window (w, w + 60], everything still counts at the last grant that the
  window admits from, since it was admitted after w and so its last moment is later than w.

Knows records and the rule of granting, no storage, no clock and no request. Times are milliseconds of the store's
clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from llmops.core.errors import UnavailableError

Kind = Literal["usd", "slots", "rate"]
Status = Literal["ok", "short", "refused", "period", "lost"]

WINDOW_MS = 60_000
USE_MS = 1_000
"""How long rate allowance may be used after its grant; five times that while less than half of the ceiling is taken."""
STEP_MS = 500
"""Moments until which rate allowance may be used are multiples of this, so that a minute has few of them."""
MARK_MS = 1_500
"""How long a recall stands after the last worker that came away short asked."""
LARGEST = 2**53 - 1
"""The largest ceiling: Redis' scripts count in doubles. In nano-dollars it is 9,007,199 US dollars a period."""


class StoreGone(UnavailableError):
    """The shared store does not answer, or may not be trusted before it has been told what it lost."""

    code = "allowance_store_gone"


@dataclass(slots=True, frozen=True)
class Account:
    """One ceiling as the store books it."""

    id: str
    kind: Kind
    ceiling: int
    start: int = 0
    end: int = 0


@dataclass(slots=True)
class Ask:
    """What a holder tells of its lease, and what it asks for. Told again with the same `seq` it is booked once."""

    account: Account
    serial: int = 0  # which lease of this holder, so that the journal's slot is known to be that lease's
    slot: int = 0
    seq: int = 0
    used: int = 0
    returned: int = 0
    debt: int = 0  # all that this lease ever used beyond itself
    refunds: Mapping[int, int] = field(default_factory=dict)  # rate: last moment of use -> unused (negative: overused)
    kept: int = 0  # rate: what the holder goes on holding, and what requests under way may give back
    least: int = 0  # the smallest of the requests that wait; below it a grant helps nobody
    need: int = 0  # all that wait
    want: int = 0  # welcome beyond that, to be ahead of the next requests
    mark: int = 0  # the recall that this holder's last shortage began; 0: none
    emptied: bool = False  # the holder keeps nothing that is free
    close: bool = False  # nothing is under way either: forget the lease


@dataclass(slots=True)
class Answer:
    """What the store booked. `grant` was added to the lease."""

    status: Status
    grant: int = 0
    until: int = 0  # rate: may be used before this moment
    spent: int = 0  # usd: settled in the period; rate: counted in the window
    leased: int = 0
    mark: int = 0
    retry_ms: int = -1  # after a refusal: when asking again may help; -1: not in this period


@dataclass(slots=True)
class Tally:
    """The answers to one exchange, in the order of the asks, and the store's clock while it was made."""

    now: int
    answers: list[Answer]


@dataclass(slots=True, frozen=True)
class LeaseRow:
    """A budget or concurrency lease as the store knows it."""

    account: str
    kind: Kind
    serial: int
    slot: int
    seq: int
    amount: int
    granted: int
    debt: int


@dataclass(slots=True, frozen=True)
class Burial:
    """What is left of a dead holder's lease: `free` comes back, the rest counts as spent, `debt` too."""

    account: str
    serial: int
    free: int
    debt: int


@dataclass(slots=True, frozen=True)
class UsageRow:
    """One ceiling and how much of it is taken. Money in nano-dollars; `start_ms` 0 where there is no period."""

    meter: str
    start_ms: int
    spent: int
    leased: int
    ceiling: int
    holders: int


class Store(Protocol):
    """Books all accounts. Every method raises StoreGone."""

    async def exchange(self, holder: str, asks: Sequence[Ask]) -> Tally:
        """Book and grant, all asks in one transaction; also tells that the holder lives."""

    async def recalls(self, holder: str) -> list[str]:
        """Accounts whose free allowance somebody else waits for, and this holder has not yet given back."""

    async def leases(self, holder: str) -> list[LeaseRow]:
        """What a holder holds of budgets and slots."""

    async def bury(self, holder: str, burials: Sequence[Burial]) -> None:
        """End a dead holder: book each lease, drop the others that it held, forget it. Repeating it changes nothing."""

    async def usage(self) -> list[UsageRow]: ...

    async def close(self) -> None: ...


def grant_of(ask: Ask, available: int, holders: int, *, recalled: bool) -> int:
    """How much to give: all that waits if that is there, else all there is if it helps somebody; some ahead if plenty.

    What is given ahead is at most half of an equal share, and nothing while somebody waits for a recall: allowance
    must not lie idle at one worker near the ceiling.
    """
    available = max(available, 0)
    ahead = 0 if recalled else min(ask.want, max(available - ask.need, 0) // (2 * max(holders, 1)))
    if ask.need and available < ask.need:
        return available if available >= ask.least else 0
    return ask.need + ahead


def until_of(now: int, counted: int, ceiling: int) -> int:
    """The moment until which a rate grant may be used: short near the ceiling, so that little is held back."""
    use = USE_MS if 2 * counted > ceiling else 5 * USE_MS
    return -(-(now + use) // STEP_MS) * STEP_MS

"""What a worker holds of one meter, and what a request holds of its meters: the few instructions on the hot path.

Plain integers in slots; each change of a budget's free amount is written to the journal at once (a memory write). Of
slots nothing is: those of a process that is no more are all free. Knows nothing of stores, waiting or refusing: `desk`
decides what is asked for and what an answer means.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Final, Literal, cast

from llmops.gateway.allowance.exchange import Account
from llmops.gateway.allowance.journal import APPLIED, DEBT, FREE, RETURNING, SENT, SERIAL, Journal
from llmops.gateway.calls import Meter

REQUESTS, TOKENS, MONEY, SLOTS = 0, 1, 2, 3
UNITS: Final = {"requests": REQUESTS, "tokens": TOKENS, "usd": MONEY, "concurrent": SLOTS}
FOREVER: Final = float("inf")
_NOWHERE: Final = memoryview(array("q", bytes(64)))


class Grant:
    """Allowance at hand: `free` may be taken before `until` (this process' monotonic clock)."""

    __slots__ = ("free", "holding", "index", "returning", "unit", "until", "view")

    def __init__(self, holding: Holding) -> None:
        self.holding = holding
        self.unit = holding.unit
        self.free = 0
        self.until = 0.0
        self.returning = 0
        self.view = _NOWHERE  # leases put the journal here
        self.index = 0


class Tranche(Grant):
    """Requests or tokens of one grant, booked by the store under `last`, the last moment of their use."""

    __slots__ = ("last",)

    def __init__(self, holding: Holding, last: int) -> None:
        super().__init__(holding)
        self.last = last


class Lease(Grant):
    """Money or slots of one account. Always: amount == free + returning + used + what requests under way hold."""

    __slots__ = ("account", "amount", "base", "debt", "debt_told", "number", "pending", "seq", "serial", "used")

    def __init__(self, holding: Holding, account: Account, journal: Journal, serial: int) -> None:
        super().__init__(holding)
        self.account = account
        self.amount = self.used = self.debt = self.debt_told = self.seq = 0
        self.pending: tuple[int, int, bool] | None = None  # (used, returned, close) until an answer comes
        self.serial = serial
        self.number, self.view, self.base = journal.allot()
        for word in (SENT, APPLIED, RETURNING, FREE, FREE + 1, DEBT):
            self.view[self.base + word] = 0
        self.view[self.base + SERIAL] = serial
        self.index = self.base + FREE

    @property
    def under_way(self) -> int:
        return self.amount - self.free - self.returning - self.used

    def begin(self, *, returned: int, close: bool) -> None:
        """Take what is given back out of reach, and note that an exchange may reach the store from now on."""
        self.free -= returned
        self.returning = returned
        self.view[self.base + RETURNING] = returned
        self.view[self.base + SENT] = self.seq + 1
        self.pending = (self.used, returned, close)

    def finish(self, grant: int) -> None:
        """The store has booked the exchange under way, and gives this much."""
        assert self.pending is not None
        used, returned, _ = self.pending
        self.pending = None
        self.seq += 1
        self.used -= used
        self.amount += grant - used - returned
        self.free += grant
        self.returning = 0
        self.index = self.base + FREE + (self.seq & 1)
        self.view[self.index] = self.free
        self.view[self.base + APPLIED] = self.seq

    def orphan(self) -> None:
        """Its slot is another's from now on; requests that still hold of it change nothing any more."""
        self.view, self.base, self.index = _NOWHERE, 0, FREE

    def overdraw(self, more: int) -> None:
        """Book what was used beyond the reservation: from what is free, else as a debt to the account."""
        taken = min(max(self.free, 0), more)
        self.free -= taken
        self.used += taken
        self.view[self.index] = self.free + self.returning
        if more > taken:
            self.debt += more - taken
            self.view[self.base + DEBT] = self.debt
        self.holding.overdrawn += 1


class Holding:
    """All that this worker knows of one meter: the current grant, what is to be told, what was refused."""

    __slots__ = (
        "busy_at",
        "carried",
        "cost",
        "given",
        "grant",
        "least",
        "mark",
        "measured_at",
        "meter",
        "need",
        "overdrawn",
        "pace",
        "recalled",
        "refunds",
        "refused_from",
        "refused_until",
        "retry_s",
        "settled",
        "taken",
        "told_at",
        "unit",
    )

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.unit = UNITS[meter.what]
        self.grant = Grant(self)
        self.refunds: dict[int, int] = {}
        self.carried = 0  # debt of a lease that the store has forgotten
        self.overdrawn = 0
        self.need = self.least = self.cost = self.mark = 0
        self.recalled = False
        self.refused_from = 0  # the smallest amount that was refused
        self.refused_until = 0.0
        self.retry_s: float | None = None
        self.given = self.taken = 0  # granted less given back; and of it, as last looked at, taken by requests
        self.settled = 0  # tokens: reserved by requests that have ended
        self.pace = 0.0  # taken a second, of late
        self.measured_at = self.busy_at = self.told_at = 0.0


class Bundle:
    """The grants that the requests of one set of meters take from, by unit: good until one of them is replaced.

    What requests leave of their tokens is the same for every tranche: it is summed up here, until `fold`.
    """

    __slots__ = ("money", "reserved", "singles", "slots", "stir", "tokens", "until", "unused")

    def __init__(self, grants: Sequence[Grant], stir: Callable[[Bundle], None]) -> None:
        self.stir = stir  # there is something to fold again
        self.reserved = self.unused = 0  # tokens of the requests that have ended since
        self.singles = tuple(grant for grant in grants if grant.unit in (REQUESTS, SLOTS))
        self.tokens = cast("tuple[Tranche, ...]", tuple(grant for grant in grants if grant.unit == TOKENS))
        self.money = cast("tuple[Lease, ...]", tuple(grant for grant in grants if grant.unit == MONEY))
        self.slots = tuple(grant for grant in grants if grant.unit == SLOTS)
        self.until = min((grant.until for grant in grants), default=FOREVER)

    def take(self, nano_usd: int, tokens: int) -> bool:
        """Take a request's share of every grant; of none where one is short.

        Each is looked at and taken from in one step. Whatever was taken before one that is short goes back.
        """
        for grant in self.singles:
            grant.free = free = grant.free - 1
            if free < 0:
                return self._put_back(grant, nano_usd, tokens)
        for grant in self.tokens:
            grant.free = free = grant.free - tokens
            if free < 0:
                return self._put_back(grant, nano_usd, tokens)
        for grant in self.money:
            grant.free = free = grant.free - nano_usd
            if free < 0:
                return self._put_back(grant, nano_usd, tokens)
            grant.view[grant.index] = free + grant.returning
        return True

    def fold(self) -> None:
        """Tell the holdings what requests have left of their tokens."""
        for tranche in self.tokens:
            holding, last = tranche.holding, tranche.last
            holding.settled += self.reserved
            holding.refunds[last] = holding.refunds.get(last, 0) + self.unused
        self.reserved = self.unused = 0

    def _put_back(self, short: Grant, nano_usd: int, tokens: int) -> Literal[False]:
        """Undo what `take` took up to the grant that is short. The short one's journal was not written to."""
        amounts = (1, tokens, nano_usd, 1)
        for grant in (*self.singles, *self.tokens, *self.money):
            grant.free += amounts[grant.unit]
            if grant is short:
                break
            grant.view[grant.index] = grant.free + grant.returning
        return False


class Held:
    """A request's reservation (calls.Reservation)."""

    __slots__ = ("_bundle", "_loose", "_nano_usd", "_tokens")

    def __init__(self, bundle: Bundle, nano_usd: int, tokens: int, loose: Sequence[Lease] = ()) -> None:
        self._bundle: Bundle | None = bundle
        self._nano_usd = nano_usd
        self._tokens = tokens
        self._loose = loose

    def settle(self, nano_usd: int, tokens: int) -> None:
        """Book the real usage; what was reserved beyond it comes back at once."""
        bundle = self._bundle
        if bundle is None:
            raise RuntimeError("a reservation is settled once")
        self._bundle = None
        rest = self._nano_usd - nano_usd
        if rest >= 0:
            for lease in bundle.money:
                lease.used += nano_usd
                lease.free = free = lease.free + rest
                lease.view[lease.index] = free + lease.returning
        else:
            for lease in bundle.money:
                lease.used += self._nano_usd
                lease.overdraw(-rest)
        for grant in bundle.slots:
            grant.free += 1
        if bundle.tokens:
            if not bundle.reserved:
                bundle.stir(bundle)
            bundle.reserved += self._tokens
            bundle.unused += self._tokens - tokens
        for lease in self._loose:
            lease.debt += nano_usd
            lease.holding.overdrawn += 1
            lease.view[lease.base + DEBT] = lease.debt

    def release(self) -> None:
        """No upstream was asked. The request still counts as a request."""
        self.settle(0, 0)

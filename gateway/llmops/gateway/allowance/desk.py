"""One worker's share of all ceilings: what it holds, what it must ask for, what an answer changes. No input or output.

A reservation takes from what is held, or is None where the store must be asked, or is refused where the store has just
said so. `collect` gathers what there is to tell and to ask, `apply` takes the answers in; between the two, requests go
on. Whoever drives a desk brings the clock and carries the asks to the store, one exchange at a time.

What a period, a minute or a slot means exactly:

- A budget's request is booked in the period in which its allowance was granted; a lease is not used past its period by
  any clock (the worker reckons the store's time from above). A request that ends in the next period changes only the
  old one. A request that costs nothing still needs a budget that is not used up.
- A minute is any 60 s, by the store's clock, of the moments of admission; tokens count as reserved while the request
  runs and as used from then on.
- A slot is held from admission to `settle` or `release`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmops.gateway.allowance.exchange import Answer, Ask, Tally
from llmops.gateway.allowance.journal import Journal
from llmops.gateway.allowance.lease import FOREVER, MONEY, SLOTS, TOKENS, Bundle, Grant, Held, Holding, Lease, Tranche
from llmops.gateway.allowance.periods import account_of
from llmops.gateway.allowance.refusal import gone, refusal
from llmops.gateway.calls import Meter

REFUSED_S: Final = 0.1
"""How long a worker remembers a refusal: a ceiling that is reached must not cost a round trip for every request."""
REPORT_S: Final = 0.5
IDLE_S: Final = 3.0
_PLANS: Final = 8192
_HOLDINGS: Final = 65_536
_AHEAD_S: Final = 2.0

Amounts = tuple[int, int, int, int]
Gone = Mapping[Literal["budgets", "limits"], Literal["refuse", "allow"]]


@dataclass(slots=True, eq=False)
class Plan:
    """The holdings of one set of meters, and their grants as they were at `version` of the desk."""

    meters: Sequence[Meter]
    holdings: tuple[Holding, ...]
    bundle: Bundle | None = None
    version: int = -1


@dataclass(slots=True)
class DeskConfig:
    """How a worker shares."""

    lease_nano: int = 500_000_000
    lease_s: float = 30.0
    when_gone: Gone | None = None


@dataclass(slots=True)
class _Sent:
    ask: Ask
    holding: Holding
    lease: Lease | None
    refunds: dict[int, int]


class Desk:
    """The part of Allowances that decides. Single-threaded."""

    def __init__(
        self, journal: Journal, config: DeskConfig, *, clock: Callable[[], float], wall_ms: Callable[[], int]
    ) -> None:
        self._journal = journal
        self._config = config
        self._clock = clock
        self._wall_ms = wall_ms
        self._plans: dict[int, Plan] = {}
        self._holdings: dict[str, Holding] = {}
        self._active: dict[str, Holding] = {}
        self._old: list[Lease] = []  # of periods gone by, with requests still under way
        self._unfolded: list[Bundle] = []  # of which requests have ended since the last exchange
        self._sent: list[_Sent] = []
        self._serial = 0
        self._version = 0  # another one whenever a grant may have been replaced
        self._base: tuple[float, int] | None = None  # when the last exchange began, and the store's clock in it
        self.on_stir: Callable[[], None] = lambda: None
        self.overdrawn = 0  # settlements beyond their reservation
        self.lost = 0  # leases that the store had forgotten

    # --- requests ------------------------------------------------------------------------------------------------

    def try_reserve(self, meters: Sequence[Meter], nano_usd: int, tokens: int) -> Held | None:
        """See calls.Allowances. Give the same tuple for the same meters: what it leads to is remembered."""
        plan = self._plans.get(id(meters))
        if plan is None or plan.meters is not meters:
            plan = self.plan(meters)
        now = self._clock()
        bundle = plan.bundle if plan.version == self._version else self._bundled(plan)
        if bundle is not None and now < bundle.until and bundle.take(nano_usd, tokens):
            return Held(bundle, nano_usd, tokens)
        amounts = (1, tokens, nano_usd, 1)
        taken: list[Grant] = []
        for holding in plan.holdings:
            grant = holding.grant
            if grant.free < amounts[grant.unit] or now >= grant.until:
                _put_back(taken, amounts)
                self._check_refused(plan, amounts, now)
                return None
            _take(grant, amounts[grant.unit])
            taken.append(grant)
        return Held(Bundle(taken, self._stir), nano_usd, tokens)

    def _bundled(self, plan: Plan) -> Bundle | None:
        """The plan's grants of now; None where it names a meter twice, which has to be taken from one by one."""
        once = len(set(map(id, plan.holdings))) == len(plan.holdings)
        plan.bundle = Bundle([holding.grant for holding in plan.holdings], self._stir) if once else None
        plan.version = self._version
        return plan.bundle

    def reserve_gone(self, plan: Plan, nano_usd: int, tokens: int, cause: str) -> Held:
        """While the store is gone: from what is held, else as the configuration says.

        Allowed budgets are booked as a debt, told to the store when it is back.
        """
        now = self._clock()
        self._version += 1
        amounts = (1, tokens, nano_usd, 1)
        taken: list[Grant] = []
        loose: list[Lease] = []
        for holding in plan.holdings:
            grant = holding.grant
            if grant.free >= amounts[grant.unit] and now < grant.until:
                _take(grant, amounts[grant.unit])
                taken.append(grant)
                continue
            kind: Literal["budgets", "limits"] = "budgets" if holding.unit == MONEY else "limits"
            if (self._config.when_gone or {}).get(kind, "refuse") == "refuse":
                _put_back(taken, amounts)
                raise gone(holding.meter, cause)
            if holding.unit == MONEY:
                loose.append(self._current(holding, now))
                self._active[holding.meter.id] = holding
        return Held(Bundle(taken, self._stir), nano_usd, tokens, loose)

    def plan(self, meters: Sequence[Meter]) -> Plan:
        """The holdings of these meters, made where they are new."""
        if len(self._holdings) > _HOLDINGS:
            self._holdings = dict(self._active)
            self._plans.clear()
        holdings = []
        for meter in meters:
            holding = self._holdings.get(meter.id)
            if holding is None:
                holding = self._holdings[meter.id] = Holding(meter)
            elif holding.meter.ceiling != meter.ceiling:
                holding.meter, holding.recalled = meter, True  # what was leased under the old ceiling goes back
            holdings.append(holding)
        plan = Plan(meters, tuple(holdings))
        if isinstance(meters, tuple):
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[id(meters)] = plan
        return plan

    def refuse(self, plan: Plan, amounts: Amounts) -> Exception:
        """What to tell a request that has waited long enough: the first of its ceilings that is short."""
        now = self._clock()
        lacking = next((h for h in plan.holdings if _lacks(h, amounts, now)), plan.holdings[0])
        retry_s = 1.0 if lacking.retry_s is None else lacking.retry_s
        return refusal(lacking.meter, retry_s, self.store_ms(now))

    def _check_refused(self, plan: Plan, amounts: Amounts, now: float) -> None:
        for holding in plan.holdings:
            amount = amounts[holding.unit]
            if amount > holding.meter.ceiling:
                raise refusal(holding.meter, None, self.store_ms(now), never=True)
            if now < holding.refused_until and amount >= holding.refused_from and _lacks(holding, amounts, now):
                raise refusal(holding.meter, holding.retry_s, self.store_ms(now))

    # --- the store's clock ---------------------------------------------------------------------------------------

    def store_ms(self, now: float) -> int:
        """The store's clock, at the latest: it was read within the exchange, which is taken to have lasted no time."""
        if self._base is None:
            return self._wall_ms()
        return self._base[1] + int((now - self._base[0]) * 1000) + 1

    def _local(self, store_ms: int) -> float:
        """The latest moment here that is certainly before one of the store's clock."""
        assert self._base is not None
        return self._base[0] + (store_ms - self._base[1]) / 1000

    # --- exchanges -----------------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._active or self._old)

    def recall(self, accounts: Collection[str]) -> None:
        """Somebody waits for what is free of these: give it back with the next exchange."""
        for account in accounts:
            holding = self._active.get(account) or self._active.get(account.rpartition("@")[0])
            if holding is not None:
                holding.recalled = True

    def collect(self, waiting: Sequence[tuple[Plan, Amounts]], *, leaving: bool = False) -> list[Ask]:
        """What to tell and ask the store now. `leaving`: give back all that is free."""
        now = self._clock()
        self._version += 1
        self._fold()
        for holding in self._active.values():
            holding.need = holding.least = 0
        for plan, amounts in waiting:
            for holding in plan.holdings:
                if _lacks(holding, amounts, now):
                    self._active[holding.meter.id] = holding
                    amount = amounts[holding.unit] or 1
                    holding.least = min(amount, holding.least) if holding.need else amount
                    holding.need += amount
        self._sent = []
        for holding in list(self._active.values()):
            self._measure(holding, now)
            holding.recalled = holding.recalled or leaving
            if holding.unit in (MONEY, SLOTS):
                self._collect_lease(holding, now)
            else:
                self._collect_rate(holding, now)
        for lease in self._old:
            self._tell(lease, 0, ahead=0, give=True, now=now)
        return [sent.ask for sent in self._sent]

    def apply(self, tally: Tally, sent_at: float) -> None:
        """Take in the answers to what `collect` gave last."""
        self._version += 1
        self._fold()
        self._base = (sent_at, tally.now)
        now = self._clock()
        for sent, answer in zip(self._sent, tally.answers, strict=True):
            if answer.status == "lost":
                self._forget(sent)
                continue
            if sent.lease is None:
                self._apply_rate(sent, answer)
            else:
                self._apply_lease(sent, sent.lease, answer)
            self._note(sent, answer, now)
        for holding in self._active.values():  # the exchange has told the store that this worker lives
            if holding.unit == SLOTS and holding.grant.until > sent_at:
                holding.grant.until = sent_at + 0.8 * self._config.lease_s
        self._sent = []

    def failed(self) -> None:
        """The exchange came to nothing, or its answer did. Leases are told again; of rates, only what was overused."""
        for sent in self._sent:
            for last, unused in sent.refunds.items():
                if unused < 0:
                    sent.holding.refunds[last] = sent.holding.refunds.get(last, 0) + unused
        self._sent = []

    def _stir(self, bundle: Bundle) -> None:
        """A request has ended, and leaves something to tell, perhaps where nothing was looked after any more."""
        self._unfolded.append(bundle)
        for tranche in bundle.tokens:
            self._active[tranche.holding.meter.id] = tranche.holding
        self.on_stir()

    def _fold(self) -> None:
        """What ended requests have left becomes something to tell."""
        unfolded, self._unfolded = self._unfolded, []
        for bundle in unfolded:
            bundle.fold()

    def _measure(self, holding: Holding, now: float) -> None:
        """How quickly requests take of this meter, rising at once and falling slowly."""
        elapsed = now - holding.measured_at
        if elapsed < 0.02:
            return
        taken = holding.given - holding.grant.free
        pace = max(taken - holding.taken, 0) / min(elapsed, 1.0)
        if taken != holding.taken or holding.need:
            holding.busy_at = now
        holding.pace = pace if pace > holding.pace else 0.8 * holding.pace + 0.2 * pace
        holding.taken, holding.measured_at = taken, now
        self.overdrawn += holding.overdrawn
        holding.overdrawn = 0

    def _collect_rate(self, holding: Holding, now: float) -> None:
        grant, refunds = holding.grant, holding.refunds
        over = now >= grant.until
        if grant.free and (over or holding.need or holding.recalled) and isinstance(grant, Tranche):
            refunds[grant.last] = refunds.get(grant.last, 0) + grant.free
            holding.given -= grant.free
            grant.free = 0
        ahead = int(holding.pace)
        low = grant.free < 0.4 * ahead or (ahead and now + 0.25 > grant.until)
        low = low and now - holding.busy_at < 0.5
        want = 0 if holding.recalled or not (holding.need or low) else max(ahead, holding.need)
        at_hand = grant.free
        if holding.unit == TOKENS:  # what requests under way may not use will come back too
            at_hand = holding.given - holding.settled
        close = not at_hand and not holding.need and (holding.recalled or now - holding.busy_at > 1.0)
        told = bool(refunds) and now - holding.told_at >= REPORT_S
        if not (holding.need or want or holding.recalled or told or close):
            return
        ask = Ask(account_of(holding.meter, 0), refunds=dict(refunds), kept=at_hand)
        ask.least, ask.need, ask.want, ask.mark = holding.least, holding.need, want, holding.mark
        ask.emptied, ask.close = not grant.free, close and not want
        self._sent.append(_Sent(ask, holding, None, ask.refunds))  # type: ignore[arg-type]
        refunds.clear()

    def _apply_rate(self, sent: _Sent, answer: Answer) -> None:
        holding, old = sent.holding, sent.holding.grant
        if answer.grant:
            if old.free and isinstance(old, Tranche):
                holding.refunds[old.last] = holding.refunds.get(old.last, 0) + old.free
                holding.given -= old.free
                old.free = 0
            tranche = Tranche(holding, answer.until)
            tranche.free, tranche.until = answer.grant, self._local(answer.until)
            holding.grant = tranche
            holding.given += answer.grant
        elif sent.ask.close and not holding.refunds:
            self._active.pop(holding.meter.id, None)

    def _collect_lease(self, holding: Holding, now: float) -> None:
        lease = holding.grant
        if isinstance(lease, Lease) and holding.unit == MONEY and self.store_ms(now) >= lease.account.end:
            self._retire(holding, lease)
        if holding.need or holding.carried:
            lease = self._current(holding, now)
        if not isinstance(lease, Lease) or holding.grant is not lease:
            self._active.pop(holding.meter.id, None)
            return
        if holding.need:
            holding.cost = holding.least
        idle = now - holding.busy_at > IDLE_S and not holding.need
        ahead = 0
        if not idle and not holding.recalled:
            ahead = max(int(_AHEAD_S * holding.pace), 16 * holding.cost if holding.unit == MONEY else holding.need)
            ahead = min(ahead, self._config.lease_nano) if holding.unit == MONEY else ahead
            ahead = ahead if holding.need or lease.free < ahead // 2 else 0
        give = bool(holding.need) or holding.recalled or idle
        self._tell(lease, holding.need, ahead=ahead, give=give, now=now)

    def _tell(self, lease: Lease, need: int, *, ahead: int, give: bool, now: float) -> None:
        """One ask about one lease, if there is something to say."""
        holding = lease.holding
        current = holding.grant is lease
        recalled = current and holding.recalled
        if lease.pending is not None:  # booked or not, nobody knows: the same again
            used, returned, close = lease.pending
            emptied = False
            need = 0 if close else need
        else:
            close = give and not need and not ahead and lease.under_way == 0
            returned = lease.free if give else 0
            report = lease.used and now - holding.told_at >= REPORT_S
            expired = holding.unit == SLOTS and now >= lease.until
            debt = lease.debt > lease.debt_told
            if not (need or recalled or returned or report or debt or close or expired or ahead > lease.free):
                return
            lease.begin(returned=returned, close=close)
            holding.given -= returned if current else 0
            used, emptied = lease.used, give
        ask = Ask(lease.account, lease.serial, lease.number, lease.seq + 1, used, returned, lease.debt)
        ask.need, ask.emptied, ask.close = need, emptied, close
        ask.want = max(ahead - lease.free, 0)
        if need:
            ask.least, ask.mark = holding.least, holding.mark
        self._sent.append(_Sent(ask, holding, lease, {}))

    def _apply_lease(self, sent: _Sent, lease: Lease, answer: Answer) -> None:
        holding, ask = sent.holding, sent.ask
        lease.finish(answer.grant)
        lease.debt_told = ask.debt
        holding.given += answer.grant
        if ask.close:
            self._drop(holding, lease)
            return
        if holding.grant is not lease:
            return
        if answer.status == "period":  # by the store's clock it is over, or has not begun
            lease.until = 0.0
        elif lease.account.kind == "usd":
            lease.until = FOREVER if lease.account.start == 0 else self._local(lease.account.end)
        else:
            lease.until = (self._base or (0.0, 0))[0] + 0.8 * self._config.lease_s

    def _note(self, sent: _Sent, answer: Answer, now: float) -> None:
        """What an answer means for the requests that wait for this meter."""
        holding = sent.holding
        holding.told_at = now
        if sent.ask.emptied:
            holding.recalled = False
        if not sent.ask.need:
            return
        holding.mark = answer.mark if answer.status == "short" else 0
        if answer.status == "refused":
            holding.refused_from = sent.ask.least
            holding.refused_until = now + REFUSED_S
            holding.retry_s = None if answer.retry_ms < 0 else max(answer.retry_ms / 1000, 0.001)
        elif answer.grant:
            holding.refused_until = 0.0

    def _current(self, holding: Holding, now: float) -> Lease:
        """The lease of the running period, begun where there is none; the store hears of it with the first ask."""
        lease = holding.grant
        if not isinstance(lease, Lease):
            self._serial += 1
            lease = Lease(holding, account_of(holding.meter, self.store_ms(now)), self._journal, self._serial)
            lease.debt, holding.carried = holding.carried, 0
            holding.grant = lease
            holding.given = holding.taken = 0
            holding.busy_at = now
        if lease.account.ceiling != holding.meter.ceiling:
            lease.account = account_of(holding.meter, lease.account.start)
        return lease

    def _retire(self, holding: Holding, lease: Lease) -> None:
        holding.grant = Grant(holding)
        holding.given = holding.taken = 0
        self._old.append(lease)

    def _drop(self, holding: Holding, lease: Lease) -> None:
        """Nothing of it is left, here or at the store."""
        self._journal.release(lease.number)
        if holding.grant is lease:
            holding.grant = Grant(holding)
            holding.given = holding.taken = 0
            self._active.pop(holding.meter.id, None)
        else:
            self._old.remove(lease)

    def _forget(self, sent: _Sent) -> None:
        """The store does not know the lease (a machine not heard of for too long): what was used is still owed."""
        lease, holding = sent.lease, sent.holding
        assert lease is not None
        self.lost += 1
        if holding.unit == MONEY:
            holding.carried += lease.used + lease.under_way + lease.debt - lease.debt_told
        self._drop(holding, lease)
        lease.orphan()
        if holding.carried:
            self._active[holding.meter.id] = holding


def _lacks(holding: Holding, amounts: Amounts, now: float) -> bool:
    grant = holding.grant
    return grant.free < amounts[holding.unit] or now >= grant.until


def _take(grant: Grant, amount: int) -> None:
    grant.free -= amount
    grant.view[grant.index] = grant.free + grant.returning


def _put_back(taken: Sequence[Grant], amounts: Amounts) -> None:
    for grant in taken:
        _take(grant, -amounts[grant.unit])

"""How much of each budget is spent now, as the shared store books it; what was reserved and not yet settled beside it.

The store knows a budget once somebody has used it. Those that the configuration and the keys name and nobody has used
yet are shown as untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from llmops.gateway.allowance import UsageRow, open_store
from llmops.gateway.allowance.periods import bounds
from llmops.gateway.calls import KeyPolicy, Meter
from llmops.gateway.config import BudgetConfig, GatewayConfig
from llmops.gateway.control.alerts import Condition
from llmops.gateway.control.keys import NANO, usd

WARN = 0.8


@dataclass(frozen=True)
class Standing:
    """One budget in its current period. Money in nano-dollars."""

    subject: str  # key:ID, team:NAME, user:TEAM:NAME, route:NAME
    period: str
    ceiling: int
    spent: int
    reserved: int

    @property
    def share(self) -> float:
        return self.spent / self.ceiling if self.ceiling else 1.0

    def as_json(self) -> dict[str, Any]:
        money: dict[str, Decimal] = {
            "limit_usd": usd(self.ceiling), "spent_usd": usd(self.spent), "reserved_usd": usd(self.reserved)
        }  # fmt: skip
        shown = {name: f"{value:f}" for name, value in money.items()}
        return {"subject": self.subject, "period": self.period, "share": round(self.share, 4), **shown}


def standings(config: GatewayConfig, policies: Iterable[KeyPolicy]) -> list[Standing]:
    """Every budget, the fullest first.

    Raises:
        StoreGone: the shared store does not answer.
    """
    known = {(row.meter, row.start_ms): row for row in _rows(config)}
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    found = {meter.id: _standing(meter, known, now_ms) for meter in _configured(config, policies)}
    for row in known.values():  # budgets of users are known by use alone
        subject, what, period = row.meter.rsplit("/", 2)
        if what == "usd" and subject.startswith("user:") and row.start_ms == _start(period, now_ms):
            found[row.meter] = Standing(subject, period, row.ceiling, row.spent, row.leased)
    return sorted(found.values(), key=lambda one: (-one.share, one.subject, one.period))


def conditions(found: Iterable[Standing]) -> Iterator[Condition]:
    """Budgets that are nearly or wholly spent."""
    for one in found:
        told = f"{one.subject} has spent ${usd(one.spent):,.2f} of its ${usd(one.ceiling):,.2f} of this {one.period}"
        if one.share >= 1.0:
            yield Condition("budget_100", f"{one.subject}/{one.period}", told)
        elif one.share >= WARN:
            yield Condition("budget_80", f"{one.subject}/{one.period}", told)


def _rows(config: GatewayConfig) -> Sequence[UsageRow]:
    async def read() -> Sequence[UsageRow]:
        store = open_store(config)
        try:
            return await store.usage()
        finally:
            await store.close()

    return asyncio.run(read())


def _configured(config: GatewayConfig, policies: Iterable[KeyPolicy]) -> Iterator[Meter]:
    for policy in policies:
        for nano, period in policy.budgets:
            yield Meter(f"key:{policy.key_id}", "usd", nano, period)
    for name, team in config.teams.items():
        yield from _meters(f"team:{name}", team.budgets)
    for route in config.routes:
        yield from _meters(f"route:{route.name}", route.budgets)


def _meters(subject: str, budgets: Iterable[BudgetConfig]) -> Iterator[Meter]:
    for budget in budgets:
        yield Meter(subject, "usd", int(budget.usd * NANO), budget.period)


def _standing(meter: Meter, known: dict[tuple[str, int], UsageRow], now_ms: int) -> Standing:
    row = known.get((meter.id, _start(meter.period, now_ms)))
    return Standing(meter.subject, meter.period, meter.ceiling, row.spent if row else 0, row.leased if row else 0)


def _start(period: str, now_ms: int) -> int:
    return bounds(period, now_ms)[0]

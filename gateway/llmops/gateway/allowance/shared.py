"""Allowances over a shared store: takes a desk's asks to the store, and lets requests wait for the answers.

One task a worker makes all exchanges, one at a time: requests that wait share the next one. Where a request comes away
short, others are asked for what they hold, and it waits at most a second before it is refused. While the store is gone
one probe at a time looks for it, less and less often, and requests are answered as the configuration says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmops.gateway.allowance.desk import Amounts, Desk, DeskConfig, Plan
from llmops.gateway.allowance.exchange import Store, StoreGone
from llmops.gateway.allowance.journal import Journal
from llmops.gateway.allowance.lease import Held
from llmops.gateway.allowance.reclaim import JOURNALS, holder_name, reclaim
from llmops.gateway.calls import Meter, Refused

LOG = logging.getLogger(__name__)
WAIT_S = 1.0
_TICK_S = 0.1
_AGAIN_S = 0.03
_RECLAIM_S = 5.0
_PROBE_S = (0.1, 5.0)


@dataclass(slots=True, eq=False)
class _Waiter:
    plan: Plan
    meters: Sequence[Meter]
    amounts: Amounts
    deadline: float
    future: asyncio.Future[Held]
    heard: bool = False
    """Whether the store has answered an exchange that asked for it: before that, slow is not short."""


@dataclass(slots=True)
class AllowanceCounters:
    """What happened since the start; read by metrics."""

    waited: int = 0
    refused: int = 0
    exchanges: int = 0
    failures: int = 0
    reclaimed: int = 0


class SharedAllowances:
    """calls.Allowances for one worker process. Open it in the process that uses it, after any fork."""

    def __init__(self, store: Store, folder: Path, config: DeskConfig) -> None:
        self.counters = AllowanceCounters()
        self.holder = holder_name(folder)
        self._store = store
        self._folder = folder
        self._lease_s = config.lease_s
        self._journal = Journal(folder / JOURNALS, self.holder)
        self.desk = Desk(self._journal, config, clock=time.monotonic, wall_ms=lambda: time.time_ns() // 1_000_000)
        self.desk.on_stir = self._stir
        self.try_reserve = self.desk.try_reserve
        self._waiting: list[_Waiter] = []
        self._kick = asyncio.Event()
        self._asleep = False
        self._gone: StoreGone | None = None
        self._probe_s = _PROBE_S[0]
        self._told_at = self._reclaimed_at = float("-inf")
        self._overdrawn = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Settle the dead of this machine, then look after the leases until `close`. The store may be gone."""
        self._task = asyncio.create_task(self._run(), name="allowance")
        self._kick.set()

    async def reserve(self, meters: Sequence[Meter], nano_usd: int, tokens: int) -> Held:
        """See calls.Allowances."""
        held = self._try(meters, nano_usd, tokens)
        if held is not None:
            return held
        plan = self.desk.plan(meters)
        if self._gone is not None:
            return self.desk.reserve_gone(plan, nano_usd, tokens, self._gone.what)
        future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        amounts = (1, tokens, nano_usd, 1)
        self._waiting.append(_Waiter(plan, meters, amounts, time.monotonic() + WAIT_S, future))
        self.counters.waited += 1
        self._kick.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()  # the caller left at the moment it was served
            raise

    async def close(self, wait_s: float = 5.0) -> None:
        """Give back all that is free and tell what was used. What is under way still stays in the journal."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for waiter in self._waiting:
            waiter.future.cancel()
        left = True
        try:
            async with asyncio.timeout(wait_s):
                left = await self._leave()
        except (StoreGone, TimeoutError) as error:
            LOG.warning("the allowance store was not told of this worker's end (%s); its journal will", error)
        await self._store.close()
        self._journal.close(remove=not left)

    @property
    def gone(self) -> bool:
        """Whether the store does not answer just now."""
        return self._gone is not None

    async def _leave(self) -> bool:
        """Give back; gives whether something is still under way."""
        for _ in range(4):  # an exchange without an answer, then what came free, then what is closed
            asks = self.desk.collect((), leaving=True)
            if not asks:
                break
            sent_at = time.monotonic()
            self.desk.apply(await self._store.exchange(self.holder, asks), sent_at)
        return self.desk.holds

    # --- the task ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._asleep = (pause := self._pause()) is None
            begun = time.monotonic()
            try:
                async with asyncio.timeout(pause):
                    await self._kick.wait()
            except TimeoutError:
                pass
            self._asleep = False
            self._kick.clear()
            if self._gone is not None and pause is not None:  # whoever kicks it does not make it probe more often
                await asyncio.sleep(max(0.0, begun + pause - time.monotonic()))
            try:
                await self._round()
            except StoreGone as error:
                self._lose(error)
            except Exception as error:
                LOG.exception("the exchange with the allowance store failed")
                self._lose(StoreGone(f"the exchange failed: {error}", hint="see the gateway's log"))
            self._serve()

    def _pause(self) -> float | None:
        if self._gone is not None:
            return self._probe_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads probes, hides nothing
        if self._waiting:
            return _AGAIN_S
        return _TICK_S if self.desk.holds else None

    def _stir(self) -> None:
        if self._asleep:
            self._kick.set()

    async def _round(self) -> None:
        now = time.monotonic()
        if now - self._reclaimed_at > _RECLAIM_S:
            self.counters.reclaimed += await reclaim(self._store, self._folder)
            self._reclaimed_at = now
        waiting = [waiter for waiter in self._waiting if not waiter.future.done()]
        asks = self.desk.collect([(waiter.plan, waiter.amounts) for waiter in waiting])
        if asks or now - self._told_at > self._lease_s / 4:
            sent_at = time.monotonic()
            self.desk.apply(await self._store.exchange(self.holder, asks), sent_at)
            self._told_at = sent_at
            self.counters.exchanges += 1
        for waiter in waiting:
            waiter.heard = True
        if self.desk.holds and (recalled := await self._store.recalls(self.holder)):
            self.desk.recall(recalled)
            self._kick.set()
        if self._gone is not None:
            LOG.warning("the allowance store answers again")
            self._gone, self._probe_s = None, _PROBE_S[0]
        if self.desk.overdrawn > self._overdrawn:
            LOG.warning("%d calls used more than was reserved for them", self.desk.overdrawn - self._overdrawn)
            self._overdrawn = self.desk.overdrawn

    def _lose(self, error: StoreGone) -> None:
        self.desk.failed()
        self.counters.failures += 1
        if self._gone is None:
            LOG.error("the allowance store is gone: %s", error.what)
        else:
            self._probe_s = min(self._probe_s * 2, _PROBE_S[1])
        self._gone = error

    def _serve(self) -> None:
        """Answer whoever can be answered, in the order of their coming."""
        now = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if waiter.future.done():
                continue
            try:
                held = self._answer(waiter, now)
            except (Refused, StoreGone) as error:
                waiter.future.set_exception(error)
            else:
                if held is None:
                    self._waiting.append(waiter)
                else:
                    waiter.future.set_result(held)

    def _answer(self, waiter: _Waiter, now: float) -> Held | None:
        _, tokens, nano_usd, _ = waiter.amounts
        if self._gone is not None:
            return self.desk.reserve_gone(waiter.plan, nano_usd, tokens, self._gone.what)
        held = self._try(waiter.meters, nano_usd, tokens)
        if held is None and waiter.heard and now > waiter.deadline:
            self.counters.refused += 1
            raise self.desk.refuse(waiter.plan, waiter.amounts)
        return held

    def _try(self, meters: Sequence[Meter], nano_usd: int, tokens: int) -> Held | None:
        try:
            return self.desk.try_reserve(meters, nano_usd, tokens)
        except Refused:
            self.counters.refused += 1
            raise

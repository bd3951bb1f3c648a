"""Any order of requests, settlements, lost messages, kills and time, over several workers: the ceilings hold.

The model knows what was truly admitted and used; both stores must keep to it, and refuse nobody while allowance lies
idle.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.allowances import Admission, MakeStore, World
from tests.support.redis import RedisServer, redis_server

from llmops.gateway.allowance.exchange import Store
from llmops.gateway.allowance.reclaim import machine_of
from llmops.gateway.allowance.redis_store import RedisStore
from llmops.gateway.allowance.sqlite_store import SqliteStore
from llmops.gateway.calls import Meter, Refused

SOAK = os.environ.get("LLMOPS_SOAK") == "1"
SHRINK = os.environ.get("LLMOPS_SHRINK") == "1"  # minutes, where a machine over Redis fails
START_MS = 1_800_000_000_000 - 1_800_000_000_000 % 3_600_000 + 3_500_000  # 100 s before an hour ends

KEY_USD = Meter("key:k", "usd", 1000, "hour")
TEAM_USD = Meter("team:t", "usd", 1500, "total")
REQUESTS = Meter("key:k", "requests", 7)
TOKENS = Meter("team:t", "tokens", 900)
SLOTS = Meter("route:r", "concurrent", 4)
SETS = [
    (KEY_USD,),
    (KEY_USD, TEAM_USD),
    (REQUESTS,),
    (TOKENS, REQUESTS),
    (SLOTS,),
    (SLOTS, KEY_USD, TOKENS),
    (TEAM_USD,),
]
LONGEST_USE_MS = 5_500


class AllowanceMachine(RuleBasedStateMachine):
    make: MakeStore
    machines: int

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.world = World(type(self).make, self.machines, start_ms=START_MS)
        self.unclaimed = False
        self.over = 0  # used beyond what was reserved
        self.over_tokens_at = -(10**12)
        for number in range(count):
            self.world.begin(number % self.machines)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.check_end()
            finally:
                self.world.close()

    def check_end(self) -> None:
        """After everybody has left, the store's books are the truth, to the nano-dollar."""
        world = self.world
        world.leave()
        for folder in world.folders:
            world.reclaim(folder)
        if not world.workers:
            world.begin(0)
        rows = world.wait(world.workers[0].store.usage())
        for row in rows:
            if row.start_ms or row.meter == TEAM_USD.id:
                account = f"{row.meter}@{row.start_ms // 1000}"
                assert (row.spent, row.leased) == (world.spent(account), 0), account

    def worker(self, index: int):
        return self.world.workers[index % len(self.world.workers)]

    @precondition(lambda self: self.world.workers)
    @rule(worker=st.integers(0, 3), meters=st.sampled_from(SETS), nano=st.integers(0, 500), tokens=st.integers(1, 500))
    def request(self, worker: int, meters: tuple[Meter, ...], nano: int, tokens: int) -> None:
        before = self.world.now_ms
        answer = self.world.reserve(self.worker(worker), meters, nano, tokens)
        if isinstance(answer, Refused):
            assert not self.idle_for(answer.meter, nano, tokens, before), (answer.message, self.world.now_ms)
            assert answer.retry_after_s is None or 0 < answer.retry_after_s <= 67

    def idle_for(self, meter: Meter, nano: int, tokens: int, before: int) -> bool:
        """Whether this refusal was wrong: enough is free by the truth, and nothing is on its way."""
        world = self.world
        if self.unclaimed or world.now_ms - world.faults_at < 70_000:
            return False
        if meter.what == "concurrent":
            return world.under_way(meter) + 1 <= meter.ceiling
        if meter.what == "usd":
            if before // 3_600_000 != world.now_ms // 3_600_000:
                return False
            start = 0 if meter.period == "total" else world.now_ms // 3_600_000 * 3_600
            return world.spent(f"{meter.id}@{start}") + max(nano, 1) <= meter.ceiling
        if world.now_ms - world.killed_at < 70_000:  # what a dead worker had at hand comes back with the minute
            return False
        amount = 1 if meter.what == "requests" else tokens
        counted = world.in_window(meter, world.now_ms, 60_000 + LONGEST_USE_MS + 1_500, within=False)
        return counted + amount <= meter.ceiling

    @precondition(lambda self: any(worker.open for worker in self.world.workers))
    @rule(data=st.data(), share=st.sampled_from([0, 1, 50, 99, 100, 100, 130]))
    def settle(self, data: st.DataObject, share: int) -> None:
        pairs = [(worker, admission) for worker in self.world.workers for admission in worker.open]
        worker, admission = pairs[data.draw(st.integers(0, len(pairs) - 1))]
        nano, tokens = admission.nano * share // 100, admission.tokens * share // 100
        if share > 100:
            self.over += nano - admission.nano
        self.world.settle(worker, admission, nano, tokens)

    @precondition(lambda self: any(worker.open for worker in self.world.workers))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pairs = [(worker, admission) for worker in self.world.workers for admission in worker.open]
        worker, admission = pairs[data.draw(st.integers(0, len(pairs) - 1))]
        self.world.settle(worker, admission, 0, 0)

    @precondition(lambda self: self.world.workers)
    @rule(worker=st.integers(0, 3), lost=st.sampled_from(["", "", "", "request", "answer"]))
    def tick(self, worker: int, lost: str) -> None:
        self.world.exchange(self.worker(worker), lost=lost)

    @precondition(lambda self: self.world.workers)
    @rule(
        worker=st.integers(0, 3),
        meters=st.sampled_from(SETS),
        nano=st.integers(1, 500),
        lost=st.sampled_from(["request", "answer"]),
    )
    def lose(self, worker: int, meters: tuple[Meter, ...], nano: int, lost: str) -> None:
        """A request asks for more, and the exchange comes to nothing."""
        chosen = self.worker(worker)
        self.world.exchange(chosen, [(chosen.desk.plan(meters), (1, 10, nano, 1))], lost=lost)

    @rule(ms=st.sampled_from([1, 40, 100, 400, 900, 1_100, 4_000, 20_000, 61_000]))
    def wait(self, ms: int) -> None:
        """Time passes; live workers look after their leases in it."""
        for _ in range(3):
            self.world.now_ms += ms // 3 + 1
            for worker in self.world.workers:
                self.world.exchange(worker)

    @precondition(lambda self: len(self.world.workers) > 1)
    @rule(worker=st.integers(0, 3), claim=st.booleans())
    def kill(self, worker: int, claim: bool) -> None:
        self.world.kill(self.worker(worker))
        self.unclaimed = True
        if claim:
            self.claim()

    @rule()
    def claim(self) -> None:
        for folder in self.world.folders:
            self.world.reclaim(folder)
        self.unclaimed = False

    @precondition(lambda self: len(self.world.workers) < 4)
    @rule(machine=st.integers(0, 1))
    def begin(self, machine: int) -> None:
        self.world.begin(machine % self.machines)

    @invariant()
    def ceilings_hold(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        assert world.under_way(SLOTS) <= SLOTS.ceiling
        for meter in (KEY_USD, TEAM_USD):
            accounts = {name for a in world.admissions for name in a.accounts if name.startswith(meter.id)}
            for account in accounts:
                assert world.spent(account) <= meter.ceiling + self.over, account
        for meter in (REQUESTS, TOKENS):
            for moment in {a.at_ms for a in world.admissions if meter in a.meters}:
                assert world.in_window(meter, moment) <= meter.ceiling, meter.id


def _run(make: MakeStore, machines: int, examples: int, steps: int) -> None:
    machine = type("Bound", (AllowanceMachine,), {"make": staticmethod(make), "machines": machines})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * (40 if SOAK else 1),
            stateful_step_count=steps,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate] + [Phase.shrink] * SHRINK,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_ceilings_hold_over_workers_of_one_machine() -> None:
    def make(folder: Path, clock) -> Store:
        return SqliteStore(folder, clock_ms=clock)

    _run(make, 1, examples=40, steps=40)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.mark.redis
def test_ceilings_hold_over_two_machines(redis: RedisServer) -> None:
    worlds: dict[Path, str] = {}
    numbers = itertools.count()

    def make(folder: Path, clock) -> Store:
        prefix = worlds.setdefault(folder.parent, f"world{next(numbers)}:")
        return RedisStore(redis.url, folder, machine_of(folder), prefix=prefix, clock_ms=clock)

    _run(make, 2, examples=12, steps=30)


def test_the_model_can_fail() -> None:
    """The truth is computed, not assumed: an admission too many is seen."""
    machine = AllowanceMachine.__new__(AllowanceMachine)
    world = World(lambda folder, clock: SqliteStore(folder, clock_ms=clock), 1, start_ms=START_MS)
    try:
        machine.world, machine.over = world, 0
        for _ in range(REQUESTS.ceiling + 1):
            world.admissions.append(Admission(START_MS, (REQUESTS,), (), 0, 0, None, 0, 0))
        with pytest.raises(AssertionError, match="requests"):
            AllowanceMachine.ceilings_hold(machine)
    finally:
        world.close()

"""Several workers over one allowance store, with a clock that the test turns; knows the truth of what was admitted."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.gateway.allowance.desk import Desk, DeskConfig
from llmops.gateway.allowance.exchange import Store, Tally
from llmops.gateway.allowance.journal import Journal
from llmops.gateway.allowance.lease import Held, Lease
from llmops.gateway.allowance.reclaim import JOURNALS, holder_name, reclaim
from llmops.gateway.calls import Meter, Refused

WINDOW_MS = 60_000
STEP_MS = 30
WAIT_STEPS = 40

MakeStore = Callable[[Path, Callable[[], int]], Store]


def quick_folder() -> Path:
    """A folder in memory where there is one: these tests commit thousands of times."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="llmops-allowance-", dir=memory if memory.is_dir() else None))


@dataclass(eq=False)
class Worker:
    folder: Path
    store: Store
    holder: str
    journal: Journal
    desk: Desk
    open: list[Admission] = field(default_factory=list)


@dataclass(eq=False)
class Admission:
    """One request that was let in."""

    at_ms: int
    meters: tuple[Meter, ...]
    accounts: tuple[str, ...]  # of its budgets
    nano: int
    tokens: int
    held: Held | None
    used_nano: int | None = None
    used_tokens: int | None = None

    @property
    def counted_nano(self) -> int:
        return self.nano if self.used_nano is None else self.used_nano

    @property
    def counted_tokens(self) -> int:
        return self.tokens if self.used_tokens is None else self.used_tokens


class World:
    """Drives desks as `shared.SharedAllowances` does, one step at a time."""

    def __init__(self, make: MakeStore, machines: int, *, start_ms: int) -> None:
        self.now_ms = start_ms
        self.root = quick_folder()
        self.folders = [self.root / f"machine{number}" for number in range(machines)]
        self._make = make
        self._loop = asyncio.new_event_loop()
        self.workers: list[Worker] = []
        self.admissions: list[Admission] = []
        self.faults_at = self.killed_at = -(10**12)  # when an exchange was last lost, and a worker

    def close(self) -> None:
        for worker in self.workers:
            worker.journal.close(remove=False)
            self.wait(worker.store.close())
        self._loop.close()
        shutil.rmtree(self.root)

    def wait(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    def begin(self, machine: int) -> Worker:
        folder = self.folders[machine]
        holder = holder_name(folder)
        store = self._make(folder, lambda: self.now_ms)
        journal = Journal(folder / JOURNALS, holder)
        config = DeskConfig(lease_nano=400, lease_s=30.0)
        desk = Desk(journal, config, clock=lambda: self.now_ms / 1000, wall_ms=lambda: self.now_ms)
        worker = Worker(folder, store, holder, journal, desk)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """What it had under way counts as spent from now on, and its slots are free."""
        self.workers.remove(worker)
        self.killed_at = self.now_ms
        worker.journal.close(remove=False)
        self.wait(worker.store.close())
        for admission in worker.open:
            admission.used_nano, admission.used_tokens, admission.held = admission.nano, admission.tokens, None

    def reclaim(self, folder: Path) -> None:
        store = self._make(folder, lambda: self.now_ms)
        self.wait(reclaim(store, folder))
        self.wait(store.close())

    def exchange(self, worker: Worker, waiting: Sequence[Any] = (), *, lost: str = "", leaving: bool = False) -> bool:
        """One round. `lost`: the request or the answer does not arrive. Gives whether there was anything to say."""
        worker.desk.recall(self.wait(worker.store.recalls(worker.holder)))
        asks = worker.desk.collect(waiting, leaving=leaving)
        if lost:
            self.faults_at = self.now_ms
        if not asks:
            return False
        if lost == "request":
            worker.desk.failed()
            return True
        sent_at = self.now_ms / 1000
        tally: Tally = self.wait(worker.store.exchange(worker.holder, asks))
        if lost:
            worker.desk.failed()
        else:
            worker.desk.apply(tally, sent_at)
        return True

    def reserve(self, worker: Worker, meters: tuple[Meter, ...], nano: int, tokens: int) -> Admission | Refused:
        """As a request does: at once, or after waiting while the others are polled."""
        try:
            held = worker.desk.try_reserve(meters, nano, tokens)
        except Refused:
            self.now_ms += 150  # a refusal is remembered for a moment
            held = None
        plan, amounts = worker.desk.plan(meters), (1, tokens, nano, 1)
        for _ in range(WAIT_STEPS):
            if held is not None:
                return self._admit(worker, held, meters, nano, tokens)
            self.exchange(worker, [(plan, amounts)])
            try:
                held = worker.desk.try_reserve(meters, nano, tokens)
            except Refused as refused:
                return refused
            if held is None:
                for other in self.workers:
                    if other is not worker:
                        self.exchange(other)
                self.now_ms += STEP_MS
        refused = worker.desk.refuse(plan, amounts)
        assert isinstance(refused, Refused)
        return refused

    def _admit(self, worker: Worker, held: Held, meters: tuple[Meter, ...], nano: int, tokens: int) -> Admission:
        assert held._bundle is not None
        accounts = tuple(g.account.id for g in held._bundle.money if isinstance(g, Lease) and g.account.kind == "usd")
        admission = Admission(self.now_ms, meters, accounts, nano, tokens, held)
        self.admissions.append(admission)
        worker.open.append(admission)
        return admission

    def settle(self, worker: Worker, admission: Admission, nano: int, tokens: int) -> None:
        assert admission.held is not None
        admission.held.settle(nano, tokens)
        admission.used_nano, admission.used_tokens, admission.held = nano, tokens, None
        worker.open.remove(admission)

    # --- the truth -----------------------------------------------------------------------------------------------

    def spent(self, account: str) -> int:
        return sum(a.counted_nano for a in self.admissions if account in a.accounts)

    def in_window(self, meter: Meter, end_ms: int, length_ms: int = WINDOW_MS, *, within: bool = True) -> int:
        """What was admitted in the window that ends (included) at a moment; `within`: overuse not counted."""
        total = 0
        for admission in self.admissions:
            if meter in admission.meters and end_ms - length_ms < admission.at_ms <= end_ms:
                used = admission.counted_tokens
                total += 1 if meter.what == "requests" else min(used, admission.tokens) if within else used
        return total

    def under_way(self, meter: Meter) -> int:
        return sum(meter in a.meters and a.held is not None for a in self.admissions)

    def leave(self) -> None:
        """Everybody settles and goes."""
        for worker in list(self.workers):
            for admission in list(worker.open):
                self.settle(worker, admission, admission.nano // 2, admission.tokens // 2)
            for _ in range(6):
                if not self.exchange(worker, leaving=True):
                    break


@contextlib.contextmanager
def world(make: MakeStore, machines: int, *, start_ms: int = 1_800_000_000_000):
    made = World(make, machines, start_ms=start_ms)
    try:
        yield made
    finally:
        made.close()

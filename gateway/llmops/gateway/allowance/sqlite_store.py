"""The shared store of one machine: a SQLite file in the state folder, written by all workers.

Every exchange is one transaction that is on the disk before it is answered (synchronous=FULL), so what was spent
outlives a power cut. Calls run in a thread of their own; the event loop never waits for the disk. The clock is the
machine's, and never runs backwards: after a step back it stands still until the machine has caught up.

Amounts are 64-bit integers. Knows SQL; what is granted is `exchange.grant_of`'s matter.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from llmops.gateway.allowance.exchange import (
    MARK_MS,
    WINDOW_MS,
    Answer,
    Ask,
    Burial,
    LeaseRow,
    StoreGone,
    Tally,
    UsageRow,
    grant_of,
    until_of,
)

T = TypeVar("T")
FILE = "allowance.db"
_BUSY_S = 5.0
_SCHEMA = """
create table if not exists state(name text primary key, value integer not null) without rowid;
create table if not exists accounts(
    id text primary key, kind text not null, ceiling integer not null, start integer not null, finish integer not null,
    spent integer not null, mark integer not null, mark_until integer not null) without rowid;
create table if not exists leases(
    account text not null, holder text not null, kind text not null, serial integer not null, slot integer not null,
    seq integer not null, amount integer not null, granted integer not null, debt integer not null,
    acked integer not null, primary key(account, holder)) without rowid;
create index if not exists leases_of_holder on leases(holder);
create table if not exists moments(
    account text not null, last integer not null, amount integer not null, primary key(account, last)) without rowid;
create table if not exists holders(holder text primary key, heard integer not null) without rowid;
"""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class SqliteStore:
    """Implements exchange.Store. `lease_s`: a holder not heard of for so long loses its rates and slots."""

    def __init__(self, folder: Path, *, lease_s: float = 30.0, clock_ms: Callable[[], int] = _wall_ms) -> None:
        self._path = folder / FILE
        self._lease_ms = int(lease_s * 1000)
        self._clock_ms = clock_ms
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def exchange(self, holder: str, asks: Sequence[Ask]) -> Tally:
        return await self._run(self.exchange_now, holder, asks)

    async def recalls(self, holder: str) -> list[str]:
        return await self._run(self.recalls_now, holder)

    async def leases(self, holder: str) -> list[LeaseRow]:
        return await self._run(self.leases_now, holder)

    async def bury(self, holder: str, burials: Sequence[Burial]) -> None:
        await self._run(self.bury_now, holder, burials)

    async def usage(self) -> list[UsageRow]:
        return await self._run(self.usage_now)

    async def close(self) -> None:
        if self._thread is not None:
            await self._run(self.close_now)
            self._thread.shutdown()
            self._thread = None

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "allowance")
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # --- the same, for programs without an event loop --------------------------------------------------------------

    def exchange_now(self, holder: str, asks: Sequence[Ask]) -> Tally:
        with self._transaction() as connection:
            now = self._now(connection)
            self._hear(connection, holder, now)
            answers = [_Booking(connection, holder, ask, now).book() for ask in asks]
            return Tally(now, answers)

    def recalls_now(self, holder: str) -> list[str]:
        with self._reading() as connection:
            rows = connection.execute(
                "select l.account from leases l join accounts a on a.id = l.account "
                "where l.holder = ? and l.amount > 0 and l.acked < a.mark and a.mark_until > ?",
                (holder, self._clock_ms()),
            )
            return [row[0] for row in rows]

    def leases_now(self, holder: str) -> list[LeaseRow]:
        with self._reading() as connection:
            rows = connection.execute(
                "select account, kind, serial, slot, seq, amount, granted, debt from leases "
                "where holder = ? and kind <> 'rate'",
                (holder,),
            )
            return [LeaseRow(*row) for row in rows]

    def bury_now(self, holder: str, burials: Sequence[Burial]) -> None:
        with self._transaction() as connection:
            for burial in burials:
                connection.execute(
                    "update accounts set spent = spent + ? + (select l.amount - ? from leases l where "
                    "l.account = accounts.id and l.holder = ?) where id = ? and kind = 'usd' and exists "
                    "(select 1 from leases l where l.account = accounts.id and l.holder = ? and l.serial = ?)",
                    (burial.debt, burial.free, holder, burial.account, holder, burial.serial),
                )
                connection.execute(
                    "delete from leases where account = ? and holder = ? and serial = ?",
                    (burial.account, holder, burial.serial),
                )
            connection.execute("delete from leases where holder = ? and kind <> 'usd'", (holder,))
            connection.execute("delete from holders where holder = ?", (holder,))

    def usage_now(self) -> list[UsageRow]:
        with self._reading() as connection:
            now = self._clock_ms()
            rows = connection.execute(
                "select a.id, a.kind, a.start, a.spent, a.ceiling, coalesce(sum(l.amount), 0), count(l.holder), "
                "(select coalesce(sum(m.amount), 0) from moments m where m.account = a.id and m.last > ?) "
                "from accounts a left join leases l on l.account = a.id group by a.id order by a.id",
                (now - WINDOW_MS,),
            )
            return [
                UsageRow(
                    meter=id_.rpartition("@")[0] if kind == "usd" else id_,
                    start_ms=start,
                    spent=max(counted - leased, 0) if kind == "rate" else spent,
                    leased=leased,
                    ceiling=ceiling,
                    holders=holders,
                )
                for id_, kind, start, spent, ceiling, leased, holders, counted in rows
            ]

    def close_now(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- the file ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connect()
        except (sqlite3.Error, OSError) as error:
            self.close_now()
            raise self._gone(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_file(self._path, _SCHEMA, "holders")
        return self._connection

    def _gone(self, error: Exception) -> StoreGone:
        return StoreGone(
            f"the allowance store does not answer: {error}", where=str(self._path), hint="is the disk full, or locked?"
        )

    def _now(self, connection: sqlite3.Connection) -> int:
        row = connection.execute("select value from state where name = 'clock'").fetchone()
        now = max(self._clock_ms(), row[0] if row else 0)
        connection.execute("insert or replace into state values ('clock', ?)", (now,))
        return now

    def _hear(self, connection: sqlite3.Connection, holder: str, now: int) -> None:
        """Note that the holder lives; take rates and slots from those not heard of for too long."""
        connection.execute("insert or replace into holders values (?, ?)", (holder, now))
        silent = connection.execute("select holder from holders where heard < ?", (now - self._lease_ms,)).fetchall()
        for (other,) in silent:
            connection.execute("delete from leases where holder = ? and kind <> 'usd'", (other,))
            connection.execute("delete from holders where holder = ?", (other,))


def open_file(path: Path, schema: str, last_table: str) -> sqlite3.Connection:
    """A file in WAL mode whose every commit is on the disk, made with this schema where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _enter_wal(connection)
        connection.execute("pragma synchronous = full")
        connection.execute("pragma cache_size = -512")
        known = connection.execute("select count(*) from sqlite_master where name = ?", (last_table,)).fetchone()
        if known[0] == 0:
            connection.executescript(f"begin immediate; {schema} commit;")
    except BaseException:
        connection.close()
        raise
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Several workers may open the file at the same moment, and one of them enters WAL mode."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            break
        except sqlite3.OperationalError:  # SQLite does not wait for this lock by itself
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class _Booking:
    """One ask within one transaction."""

    def __init__(self, connection: sqlite3.Connection, holder: str, ask: Ask, now: int) -> None:
        self._execute = connection.execute
        self._holder = holder
        self._ask = ask
        self._now = now
        self._id = ask.account.id
        self._spent, self._mark, self._mark_until = self._account()

    def book(self) -> Answer:
        return self._book_rate() if self._ask.account.kind == "rate" else self._book_lease()

    def _account(self) -> tuple[int, int, int]:
        account = self._ask.account
        row = self._execute(
            "select spent, mark, mark_until, ceiling from accounts where id = ?", (account.id,)
        ).fetchone()
        if row is None:
            self._execute(
                "insert into accounts values (?, ?, ?, ?, ?, 0, 0, 0)",
                (account.id, account.kind, account.ceiling, account.start, account.end),
            )
            return 0, 0, 0
        if row[3] != account.ceiling:
            self._execute("update accounts set ceiling = ? where id = ?", (account.ceiling, account.id))
        return row[0], row[1], row[2]

    def _book_lease(self) -> Answer:
        ask, account = self._ask, self._ask.account
        row = self._execute(
            "select serial, seq, amount, granted, debt, acked from leases where account = ? and holder = ?",
            (self._id, self._holder),
        ).fetchone()
        if row is None:
            if ask.seq > 1:
                return Answer("ok" if ask.close else "lost")
            row = (ask.serial, 0, 0, 0, 0, 0)
        serial, seq, amount, granted, debt, acked = row
        if serial == ask.serial and seq == ask.seq:  # told again: booked already
            return Answer("ok", granted, spent=self._spent)
        if serial != ask.serial or seq != ask.seq - 1:
            return Answer("lost")
        if account.kind == "usd" and ask.used + ask.debt > debt:
            self._spent += ask.used + ask.debt - debt
            self._execute("update accounts set spent = ? where id = ?", (self._spent, self._id))
        amount -= ask.used + ask.returned
        acked = self._mark if ask.emptied else acked
        if ask.close and amount == 0:
            self._execute("delete from leases where account = ? and holder = ?", (self._id, self._holder))
            return Answer("ok", spent=self._spent)
        leased, holders = self._others()
        answer = Answer("ok", spent=self._spent)
        if account.kind == "usd" and not account.start <= self._now < account.end:
            answer.status = "period"
        else:
            available = account.ceiling - self._spent - leased - amount
            self._decide(answer, available, holders)
            if answer.status == "refused":
                soon = account.kind == "slots" or account.ceiling - self._spent >= ask.least
                answer.retry_ms = 1000 if soon else -1
        amount += answer.grant
        answer.leased = leased + amount
        self._execute(
            "insert or replace into leases values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._id, self._holder, account.kind, serial, ask.slot, ask.seq, amount, answer.grant, ask.debt, acked),
        )
        return answer

    def _book_rate(self) -> Answer:
        ask, ceiling = self._ask, self._ask.account.ceiling
        self._execute("delete from moments where account = ? and last <= ?", (self._id, self._now - WINDOW_MS))
        for last, unused in ask.refunds.items():
            self._execute(
                "update moments set amount = max(amount - ?, 0) where account = ? and last = ?",
                (unused, self._id, last),
            )
        moments = self._execute(
            "select last, amount from moments where account = ? order by last", (self._id,)
        ).fetchall()
        counted = sum(amount for _, amount in moments)
        leased, holders = self._others()
        answer = Answer("ok", spent=counted)
        self._decide(answer, ceiling - counted, holders)
        if answer.grant:
            answer.until = until_of(self._now, counted + answer.grant, ceiling)
            self._execute(
                "insert into moments values (?, ?, ?) on conflict do update set amount = amount + excluded.amount",
                (self._id, answer.until, answer.grant),
            )
        if answer.status == "refused":
            answer.retry_ms = self._frees(moments, counted - ceiling + ask.least)
        held = ask.kept + answer.grant
        answer.leased = leased + held
        if ask.close and held == 0:
            self._execute("delete from leases where account = ? and holder = ?", (self._id, self._holder))
        else:
            acked = self._mark if ask.emptied else 0
            self._execute(
                "insert or replace into leases values (?, ?, 'rate', 0, 0, 0, ?, 0, 0, ?)",
                (self._id, self._holder, held, acked),
            )
        return answer

    def _frees(self, moments: Sequence[tuple[int, int]], lacking: int) -> int:
        for last, amount in moments:
            lacking -= amount
            if lacking <= 0:
                return last + WINDOW_MS - self._now
        return 1000  # held by others who have not answered

    def _others(self) -> tuple[int, int]:
        """What other holders have of this account, and how many holders there are, this one included."""
        leased, others = self._execute(
            "select coalesce(sum(amount), 0), count(*) from leases where account = ? and holder <> ?",
            (self._id, self._holder),
        ).fetchone()
        return leased, others + 1

    def _decide(self, answer: Answer, available: int, holders: int) -> None:
        """Grant; or call for what others hold; or refuse, once all of them have given back what is free."""
        ask = self._ask
        recalled = self._mark_until > self._now
        answer.grant = grant_of(ask, available, holders, recalled=recalled)
        if not ask.need or answer.grant:
            return
        held, silent = self._execute(
            "select count(*), coalesce(sum(acked < ?), 0) from leases where account = ? and holder <> ? and amount > 0",
            (ask.mark or self._mark + 1, self._id, self._holder),
        ).fetchone()
        if held == 0 or (ask.mark and silent == 0):
            answer.status = "refused"
            return
        answer.status = "short"
        if not ask.mark:
            self._mark += 1
        answer.mark = ask.mark or self._mark
        self._execute(
            "update accounts set mark = ?, mark_until = ? where id = ?", (self._mark, self._now + MARK_MS, self._id)
        )

"""What this machine knows of budgets that are kept elsewhere, so that a store that forgets can be told again.

After every exchange with a remote store, and before its answer is used, the leases of this machine and the spend that
the store told are written here durably. The sum of all machines' mirrors never falls short of what was spent and
leased: an exchange whose answer is not here yet is told again, and at worst counted twice.

Each piece of knowledge names the life of the store (its run) in which it was told: within one life the store knows
better.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "allowance-mirror.db"
_SCHEMA = """
create table if not exists accounts(
    id text not null, run text not null, kind text not null, ceiling integer not null, start integer not null,
    finish integer not null, spent integer not null, primary key(id, run)) without rowid;
create table if not exists leases(
    account text not null, holder text not null, run text not null, serial integer not null, slot integer not null,
    seq integer not null, amount integer not null, granted integer not null, debt integer not null,
    primary key(account, holder)) without rowid;
create table if not exists machines(name text primary key) without rowid;
"""


@dataclass(slots=True, frozen=True)
class Seen:
    """One lease after an exchange, and the account's spend that the store told with it. `gone`: the lease has ended."""

    account: str
    kind: str
    ceiling: int
    start: int
    end: int
    spent: int
    holder: str
    run: str
    serial: int = 0
    slot: int = 0
    seq: int = 0
    amount: int = 0
    granted: int = 0
    debt: int = 0
    gone: bool = False


class Mirror:
    """One file a state folder, shared by its workers. Every method raises sqlite3.Error; call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._connection: sqlite3.Connection | None = None

    def note(self, seen: Sequence[Seen]) -> None:
        """Keep what an exchange told, durably."""
        connection = self._connect()
        connection.execute("begin immediate")
        try:
            connection.executemany(
                "insert into accounts values (?, ?, ?, ?, ?, ?, ?) on conflict do update set "
                "ceiling = excluded.ceiling, spent = max(spent, excluded.spent)",
                [(one.account, one.run, one.kind, one.ceiling, one.start, one.end, one.spent) for one in seen],
            )
            connection.executemany(
                "insert or replace into leases values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (s.account, s.holder, s.run, s.serial, s.slot, s.seq, s.amount, s.granted, s.debt)
                    for s in seen
                    if not s.gone
                ],
            )
            connection.executemany(
                "delete from leases where account = ? and holder = ?",
                [(one.account, one.holder) for one in seen if one.gone],
            )
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise

    def buried(self, holder: str) -> None:
        """The store has settled all that this holder held."""
        self._connect().execute("delete from leases where holder = ?", (holder,))

    def knows(self, machines: Iterable[str]) -> None:
        """Remember which machines share the store, and no others."""
        connection = self._connect()
        connection.execute("begin immediate")
        try:
            connection.execute("delete from machines")
            connection.executemany("insert into machines values (?)", [(name,) for name in machines])
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise

    def before(self, run: str, now_ms: int) -> dict[str, list[Any]]:
        """What was told in earlier lives of the store, of periods that have not ended; as the store is told it."""
        connection = self._connect()
        connection.execute("delete from accounts where kind = 'usd' and finish < ?", (now_ms - 86_400_000,))
        accounts = connection.execute(
            "select id, kind, ceiling, start, finish, spent from accounts where run <> ?", (run,)
        )
        leases = connection.execute(
            "select account, holder, serial, slot, seq, amount, granted, debt from leases where run <> ?", (run,)
        )
        names = ("id", "kind", "ceiling", "start", "end", "spent")
        lease_names = ("account", "holder", "serial", "slot", "seq", "amount", "granted", "debt")
        return {
            "accounts": [dict(zip(names, row, strict=True)) for row in accounts],
            "leases": [dict(zip(lease_names, row, strict=True)) for row in leases],
            "machines": [row[0] for row in connection.execute("select name from machines")],
        }

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            from llmops.gateway.allowance.sqlite_store import open_file

            self._connection = open_file(self._path, _SCHEMA, "machines")
        return self._connection

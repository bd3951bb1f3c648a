"""The shared store of several machines: one Redis server, asked by a script that books a whole exchange at once.

The clock is the server's (TIME), and never runs backwards. Data have a life, named in the database by the run id of the
server's process and a random word; a restart, a failover or a flush begins another. Every machine then first tells what
it knows of budgets (its `mirror`), and nothing is granted until all have: a server that lost its data, or the last
second of it, never makes a budget begin anew. What is lost with the data: the last minute of the rate windows.

Knows Redis and the mirror; what is granted is `redis_store.lua`'s and `exchange.grant_of`'s matter, in step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.core.errors import ConfigError
from llmops.gateway.allowance.exchange import (
    LARGEST,
    Answer,
    Ask,
    Burial,
    LeaseRow,
    Status,
    StoreGone,
    Tally,
    UsageRow,
)
from llmops.gateway.allowance.mirror import Mirror, Seen
from llmops.gateway.allowance.resp import Connection, RedisAddress, RedisError

LOG = logging.getLogger(__name__)
SCRIPT = Path(__file__).with_name("redis_store.lua")
_STATUS: tuple[Status, ...] = ("ok", "short", "refused", "period", "lost")


class RedisStore:
    """Implements exchange.Store. `clock_ms` is for simulations; the server's own clock is used otherwise."""

    def __init__(
        self,
        url: str,
        folder: Path,
        machine: str,
        *,
        prefix: str = "llmops:",
        lease_s: float = 30.0,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self._connection = Connection(RedisAddress.parse(url))
        self._base = f"{{{prefix.rstrip(':')}}}:"
        self._machine = machine
        self._mirror = Mirror(folder)
        self._lease_ms = int(lease_s * 1000)
        self._clock_ms = clock_ms
        self._source = SCRIPT.read_bytes()
        self._thread: ThreadPoolExecutor | None = None
        self._server = ""  # run id of the process that `_run` is a life of the data in
        self._run = ""
        self._machines = 0  # how many share the store, as far as the mirror knows

    async def exchange(self, holder: str, asks: Sequence[Ask]) -> Tally:
        payload = json.dumps([_plain(ask) for ask in asks])
        told = await self._operation("exchange", holder, str(self._lease_ms), payload)
        answers, seen = [], []
        for ask, row in zip(asks, told[3:], strict=True):
            status, grant, until, spent, leased, mark, retry_ms, amount = row
            answers.append(Answer(_STATUS[status], grant, until, spent, leased, mark, retry_ms))
            if ask.account.kind != "rate":
                seen.append(_seen(holder, ask, answers[-1], amount, told[1].decode()))
        if seen:
            await self._mirrored(self._mirror.note, seen)
        if told[2] != self._machines:
            names = [name.decode() for name in await self._operation("machines")]
            await self._mirrored(self._mirror.knows, names)
            self._machines = len(names)
        return Tally(told[0], answers)

    async def recalls(self, holder: str) -> list[str]:
        return [account.decode() for account in await self._operation("recalls", holder)]

    async def leases(self, holder: str) -> list[LeaseRow]:
        return [
            LeaseRow(account.decode(), kind.decode(), *numbers)
            for account, kind, *numbers in await self._operation("leases", holder)
        ]

    async def bury(self, holder: str, burials: Sequence[Burial]) -> None:
        await self._operation("bury", holder, json.dumps([asdict(burial) for burial in burials]))
        await self._mirrored(self._mirror.buried, holder)

    async def usage(self) -> list[UsageRow]:
        rows = []
        for account, kind, start, spent, leased, ceiling, holders in await self._operation("usage"):
            name = account.decode()
            meter = name.rpartition("@")[0] if kind == b"usd" else name
            rows.append(UsageRow(meter, start, spent, leased, ceiling, holders))
        return sorted(rows, key=lambda row: (row.meter, row.start_ms))

    async def waited_for(self) -> list[str]:
        """The machines that have not told yet what they know, after the server lost its data."""
        await self._guarded(self._connection.connect)
        return await self._tell(forgive=False)

    async def forgive(self) -> None:
        """Go on without them, for an operator who knows that they are gone for good.

        What only they knew counts as not spent.
        """
        await self._guarded(self._connection.connect)
        await self._declare(forgive=True)

    async def close(self) -> None:
        await self._connection.close()
        if self._thread is not None:
            await self._mirrored(self._mirror.close)
            self._thread.shutdown()
            self._thread = None

    async def _operation(self, name: str, *arguments: str) -> Any:
        await self._guarded(self._connection.connect)
        if self._server != self._connection.run_id:
            await self._declare(forgive=False)
        try:
            return await self._guarded(self._script, name, self._run, *arguments)
        except RedisError as error:
            if not str(error).startswith("STALE"):
                raise self._gone(str(error)) from error
        await self._declare(forgive=False)  # others are still waited for, or the data was flushed under us
        try:
            return await self._guarded(self._script, name, self._run, *arguments)
        except RedisError as error:
            raise self._gone(str(error)) from error

    async def _declare(self, *, forgive: bool) -> None:
        """Tell what this machine knows, once for each life of the data; StoreGone while others have not."""
        if missing := await self._tell(forgive=forgive):
            raise self._gone(f"it was restarted, and machines have not told yet what they spent: {', '.join(missing)}")

    async def _tell(self, *, forgive: bool) -> list[str]:
        server = self._connection.run_id
        try:
            run = (await self._guarded(self._script, "begin", server, secrets.token_hex(8))).decode()
            known = await self._mirrored(self._mirror.before, run, time.time_ns() // 1_000_000)
            told = json.dumps(known)
            missing = await self._guarded(self._script, "declare", run, self._machine, told, "1" if forgive else "")
        except RedisError as error:
            raise self._gone(str(error)) from error
        self._server, self._run = server, run
        return sorted(name.decode() for name in missing)

    async def _script(self, operation: str, run: str, *arguments: str) -> Any:
        clock = "" if self._clock_ms is None else str(self._clock_ms())
        return await self._connection.script(self._source, [self._base], [operation, run, clock, *arguments])

    async def _guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await function(*arguments)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, StopIteration, RuntimeError) as error:
            raise self._gone(str(error) or type(error).__name__) from error

    async def _mirrored(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "allowance")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        except (sqlite3.Error, OSError) as error:
            raise StoreGone(
                f"what the allowance store told cannot be kept: {error}", hint="is the disk full?"
            ) from error

    def _gone(self, cause: str) -> StoreGone:
        return StoreGone(
            f"the allowance store does not answer: {cause}",
            where=f"redis {self._connection.address}",
            hint="is Redis running, and reachable from here?",
        )


def _plain(ask: Ask) -> dict[str, Any]:
    account = ask.account
    if account.ceiling > LARGEST:
        raise ConfigError(f"a ceiling above {LARGEST} cannot be kept in Redis", where=account.id)
    return {
        "id": account.id,
        "kind": account.kind,
        "ceiling": account.ceiling,
        "start": account.start,
        "end": account.end,
        "serial": ask.serial,
        "slot": ask.slot,
        "seq": ask.seq,
        "used": ask.used,
        "returned": ask.returned,
        "debt": ask.debt,
        "refunds": [number for pair in ask.refunds.items() for number in pair],
        "kept": ask.kept,
        "least": ask.least,
        "need": ask.need,
        "want": ask.want,
        "mark": ask.mark,
        "emptied": ask.emptied,
        "close": ask.close,
    }


def _seen(holder: str, ask: Ask, answer: Answer, amount: int, run: str) -> Seen:
    account = ask.account
    gone = answer.status == "lost" or (ask.close and amount == 0)
    return Seen(
        account=account.id,
        kind=account.kind,
        ceiling=account.ceiling,
        start=account.start,
        end=account.end,
        spent=answer.spent,
        holder=holder,
        run=run,
        serial=ask.serial,
        slot=ask.slot,
        seq=ask.seq,
        amount=amount,
        granted=answer.grant,
        debt=ask.debt,
        gone=gone,
    )

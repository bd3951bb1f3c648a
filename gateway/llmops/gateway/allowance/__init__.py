"""Exact ceilings over all workers and machines: requests and tokens a minute, requests at once, money in a period.

Each worker holds leases of every ceiling it uses, taken from a shared store, and never admits beyond them.
`exchange` says what is guaranteed and why; docs/gateway-money.md says it to users.
"""

from __future__ import annotations

from llmops.core.errors import UserError
from llmops.core.secret import resolve_secret
from llmops.gateway.allowance.desk import DeskConfig
from llmops.gateway.allowance.exchange import Store, StoreGone, UsageRow
from llmops.gateway.allowance.shared import SharedAllowances
from llmops.gateway.config import GatewayConfig

__all__ = [
    "SharedAllowances",
    "StoreGone",
    "UsageRow",
    "forgive_machines",
    "open_allowances",
    "open_store",
    "read_usage",
]


def open_allowances(config: GatewayConfig) -> SharedAllowances:
    """This worker's allowances; await `start()` before the first request and `close()` after the last."""
    settings = DeskConfig(
        lease_nano=int(config.store.lease_usd * 10**9), lease_s=config.store.lease_s, when_gone=config.store.when_gone
    )
    return SharedAllowances(open_store(config), config.folder, settings)


def open_store(config: GatewayConfig) -> Store:
    """The store that the configuration names; nothing is connected yet."""
    store = config.store
    if store.redis_url is not None:
        from llmops.gateway.allowance.reclaim import machine_of
        from llmops.gateway.allowance.redis_store import RedisStore

        url = store.redis_url
        if url.startswith(("env:", "file:")):
            url = resolve_secret(url)
        machine = machine_of(config.folder)
        return RedisStore(url, config.folder, machine, prefix=store.prefix, lease_s=store.lease_s)
    from llmops.gateway.allowance.sqlite_store import SqliteStore

    return SqliteStore(config.folder, lease_s=store.lease_s)


async def read_usage(store: Store) -> list[UsageRow]:
    """Every ceiling that was used, and how much of it is taken; works from any process."""
    return await store.usage()


async def forgive_machines(config: GatewayConfig, *, plan: bool) -> list[str]:
    """The machines that a restarted Redis waits for, before they were forgiven; with `plan` they stay waited for.

    Raises:
        UserError: the store is no Redis: then no other machine is waited for.
        StoreGone: it does not answer.
    """
    from llmops.gateway.allowance.redis_store import RedisStore

    store = open_store(config)
    if not isinstance(store, RedisStore):
        raise UserError("only machines that share a Redis wait for each other", hint="`store.redis_url` names it")
    try:
        waiting = await store.waited_for()
        if waiting and not plan:
            await store.forgive()
        return waiting
    finally:
        await store.close()

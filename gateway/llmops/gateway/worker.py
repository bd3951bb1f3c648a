"""One process of the data plane: one event loop that listens, answers, and takes over new keys and configurations.

The supervisor forks it with a listening socket; `python -m llmops.gateway.worker CONFIG.yaml` runs one by itself. It
opens no database and no lake: its rows go to the spool, its numbers to `folder/metrics/<number>.json`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from llmops.core.config import load_config
from llmops.core.errors import LlmopsError, UnavailableError, render
from llmops.core.secret import resolve_secret
from llmops.core.spool import Spool
from llmops.gateway.allowance import open_allowances
from llmops.gateway.cache.semantic import Embed
from llmops.gateway.compiled import running
from llmops.gateway.config import GatewayConfig, ProviderConfig
from llmops.gateway.engine.gate import Gate, Staff
from llmops.gateway.engine.metrics import Metrics
from llmops.gateway.engine.plan import Connected, Parts, Plan, build_plan
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.server import HttpServer
from llmops.gateway.http.timers import Timers
from llmops.gateway.keyring import SNAPSHOT, Ring
from llmops.gateway.listen import listen
from llmops.gateway.pricing import PriceTable
from llmops.gateway.providers import open_provider
from llmops.gateway.published import METRICS, load_published
from llmops.gateway.signing import SIGNED, SignedPool, open_signed

_KEYS_EVERY_S = 0.25
_METRICS_EVERY_S = 1.0
_GC_THRESHOLDS = (50_000, 20, 100)
"""Requests make no cycles: a rarer collection than Python's finds as much, and p99 does not see it."""
_log = logging.getLogger(__name__)


def run_worker(config: GatewayConfig, listener: socket.socket, number: int, ready: Callable[[], None]) -> None:
    """Answer on the socket until SIGTERM, then let replies under way end, and return.

    Raises:
        ConfigError: a secret, price or file of the configuration is missing.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Worker(config, number).serve(listener, ready))


def check_worker(config: GatewayConfig) -> None:
    """Refuse a configuration that no worker could run with. Raises ConfigError."""

    async def check() -> None:
        timers = Timers(asyncio.get_running_loop())
        closing: list[Coroutine[Any, Any, None]] = []
        try:
            plan = build_plan(config, Parts(connector(timers), PriceTable.load(config.prices), _no_embedding))
            plan.retire(None, closing.append)
            for work in closing:
                await work
        finally:
            timers.close()

    asyncio.run(check())


class Worker:
    """The data plane of one process."""

    def __init__(self, config: GatewayConfig, number: int) -> None:
        self._config = config
        self._number = number
        self._metrics = Metrics(number)
        self._gate: Gate
        self._server: HttpServer
        self._timers: Timers

    async def serve(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Until SIGTERM or SIGINT."""
        config = self._config
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        (config.folder / METRICS).mkdir(parents=True, exist_ok=True)
        config.state.spool.mkdir(parents=True, exist_ok=True)
        self._timers = Timers(loop)
        plan = build_plan(config, self._parts(config))
        ring = Ring.load(config.folder / SNAPSHOT)
        allowances = self._allowances = open_allowances(config)
        await allowances.start()
        with Spool(config.state.spool) as self._spool:
            staff = Staff(allowances, self._spool, self._metrics, self._timers, loop)
            self._gate = Gate(plan, ring, staff)
            self._server = HttpServer(self._gate.handle, config.http, self._timers)
            await self._server.listen(sock=listener)
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, stop.set)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            self._look_after(loop, 0)
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            ready()
            await stop.wait()
            self._gate.ready = False
            await self._server.drain(self._gate.plan.config.shutdown_s)
            await allowances.close()
            self._gate.plan.retire(None, self._gate.spawn)
            await self._gate.rest()
            self._timers.outbox.turn()  # the last rows, before the spool closes
            self._metrics.dump(config.folder / METRICS, [])
        self._timers.close()

    def _look_after(self, loop: asyncio.AbstractEventLoop, turn: int) -> None:
        """Every quarter of a second: new keys; every second: the metrics file."""
        loop.call_later(_KEYS_EVERY_S, self._look_after, loop, turn + 1)
        try:
            self._gate.renew_keys()
            if turn % round(_METRICS_EVERY_S / _KEYS_EVERY_S) == 0:
                self._metrics.dump(self._config.folder / METRICS, self._gauges())
        except OSError as error:
            _log.error("the metrics or keys of worker %d could not be kept up to date: %s", self._number, error)

    def _gauges(self) -> list[tuple[str, dict[str, str], float]]:
        counters = self._spool.counters
        gauges: list[tuple[str, dict[str, str], float]] = [
            ("llmops_gateway_compiled", {}, int(running() == "compiled")),
            ("llmops_gateway_client_connections", {}, self._server.connections),
            ("llmops_gateway_spool_backlog_bytes", {}, self._spool.backlog),
            ("llmops_gateway_spool_failed", {}, counters.failed),
            ("llmops_gateway_allowance_store_gone", {}, int(self._allowances.gone)),
            ("llmops_gateway_allowance_overdrawn", {}, self._allowances.desk.overdrawn),
        ]
        for name, connected in self._gate.plan.connected.items():
            pool = connected.pool
            if isinstance(pool, OriginPool | SignedPool):
                gauges.append(("llmops_gateway_upstream_connections", {"provider": name}, pool.connections))
                gauges.append(("llmops_gateway_upstream_waiting", {"provider": name}, pool.waiting))
        for route in self._gate.plan.routes.values():
            for target in (target for tier in route.tiers for target in tier if target.breaker.until):
                gauges.append(("llmops_gateway_breaker_open", {"route": route.name, "target": target.label}, 1))
        return gauges

    def _parts(self, config: GatewayConfig) -> Parts:
        def embedding(route: str) -> Embed:
            return lambda text: self._gate.embed(route, text)

        return Parts(connector(self._timers), PriceTable.load(config.prices), embedding)

    def _reload(self) -> None:
        """Take over the published configuration; one that does not work is logged, and the old one stays."""
        try:
            config = load_published(self._config.folder)
            plan: Plan = build_plan(config, self._parts(config), before=self._gate.plan)
        except LlmopsError as error:
            _log.error("worker %d keeps its configuration: %s", self._number, render(error))
            return
        self._gate.renew_plan(plan)
        self._server.config = config.http
        self._server.body_limit = config.http.body_bytes


def connector(timers: Timers) -> Callable[[str, ProviderConfig], Connected]:
    def connect(name: str, provider: ProviderConfig) -> Connected:
        api_key = resolve_secret(provider.api_key) if provider.api_key else None
        if provider.kind in SIGNED:
            signed = open_signed(provider, timers)
            return Connected(provider, open_provider(provider, api_key), signed, signed.fingerprint)
        return Connected(provider, open_provider(provider, api_key), OriginPool(provider, timers), api_key)

    return connect


def _no_embedding(route: str) -> Embed:
    async def embed(text: str) -> Sequence[float]:
        raise UnavailableError(f"the route `{route}` is only checked, not served")

    return embed


def main(arguments: list[str]) -> int:
    """Run one worker on a configuration file, without a supervisor: for tests and measurements."""
    try:
        config = load_config(GatewayConfig, Path(arguments[0]), overrides=arguments[1:]).value
        with listen(config.host, config.port, setting="port") as listener:
            port = listener.getsockname()[1]
            run_worker(config, listener, 0, lambda: print(f"ready {port}", flush=True))
    except LlmopsError as error:
        sys.stderr.write(render(error) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

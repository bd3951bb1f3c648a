"""A registered route put to the test: asked by the gateway's own engine, in the process that a gate confines.

The engine is the one that serves: routing, retries, fallbacks, guards, ceilings and prices are those of the definition,
and what a call cost is read from its row. It listens nowhere, its rows go to nobody, and its budgets begin at nothing.
Found by entry points (`llmops.openers`, `llmops.kinds`), so that registry knows no route.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from llmops.core.chain import ChainContext, Delta, Done, Event, Message, PassageRef, PassageView, Usage
from llmops.core.config import load_config
from llmops.core.errors import ConfigError, LlmopsError, NotFoundError, UpstreamError, UserError
from llmops.core.identity import Principal
from llmops.core.names import Ref
from llmops.gateway.config import GatewayConfig, RouteConfig, as_published
from llmops.gateway.registered import read_definitions

if TYPE_CHECKING:
    from llmops.gateway.engine.gate import Gate
    from llmops.registry.assets import Registry
    from llmops.registry.gates import Checking, Finding
    from llmops.registry.gates.plugins import Opening
    from llmops.registry.records import Version

OPENER = "llmops.gateway.trying:open_route"
_GATEWAY = Path("configs/gateway.yaml")
_ROW_S = 5.0
Value = TypeVar("Value")


def check_route(checking: Checking) -> Iterator[Finding]:
    """That the definition is one that this release of the gateway reads."""
    from llmops.registry.gates import Finding

    try:
        (read,) = read_definitions([str(checking.version.ref)], checking.registry)
        route = RouteConfig.model_validate(read["definition"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        yield Finding("route", "fail", f"the definition cannot be read: {first['msg']}")
        return
    except LlmopsError as error:
        yield Finding("route", "fail", error.what, hint=error.hint)
        return
    targets = [f"{target.provider}/{target.model}" for target in route.targets]
    yield Finding("route", "pass", f"the route `{route.name}` can be read", measured=targets)


def open_route_version(version: Version, registry: Registry, through: Mapping[str, Any]) -> Opening:
    """A route answers among the providers and other routes of a gateway's configuration (`gateway`: its file).

    Raises:
        ConfigError: the definition does not fit that gateway.
        UserError: an unknown key.
    """
    from llmops.registry.gates.plugins import Opening

    if unknown := set(through) - {"gateway"}:
        raise UserError(f"unknown key `{min(unknown)}`", where="questions.through", hint="it takes `gateway`, a file")
    file = Path(str(through.get("gateway", _GATEWAY)))
    config = load_config(GatewayConfig, file).value
    (tried,) = read_definitions([str(version.ref)], registry)
    route = tried["definition"]
    others = [other.model_dump(mode="json", exclude_defaults=True) for other in config.routes]
    elsewhere = [one for one in config.registered if Ref.parse(one).name != version.name]
    others += [entry["definition"] for entry in read_definitions(elsewhere, registry)]
    routes = [*(other for other in others if other["name"] != route["name"]), route]
    try:
        whole = GatewayConfig.model_validate({**config.model_dump(exclude={"routes", "registered"}), "routes": routes})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"`{version.ref}` does not fit this gateway: {problem}", where=str(file)) from error
    return Opening(OPENER, {"gateway": as_published(whole), "route": route["name"]}, {"gateway": str(file)})


def open_route(configuration: Mapping[str, Any]) -> RouteChain:
    """The route of a configuration, ready to answer.

    Raises:
        ConfigError: a secret or a price is missing.
    """
    given = {**configuration["gateway"], "state": {"dir": tempfile.mkdtemp(prefix="gateway-")}, "store": {}}
    return RouteChain(GatewayConfig.model_validate(given), configuration["route"])


class RouteChain:
    """Implements `core.chain.Chain` for one route: nothing is retrieved, nothing cited.

    It owns the configuration's state folder, and removes it at its end.
    """

    def __init__(self, config: GatewayConfig, route: str) -> None:
        self.version_info: dict[str, Any] = {"model": route}
        self._folder, self._route = config.state.root, route
        self._rows: list[Mapping[str, Any]] = []
        self._booked = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()
        try:
            self._gate = self._wait(self._open(config))
        except BaseException:
            self._end()
            raise

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        """One whole answer, with what it cost.

        Raises:
            UpstreamError: the gateway answers with an error.
        """
        reply, cost_usd = self._wait(self._ask([dict(message) for message in messages]))
        choice = reply["choices"][0]
        text, used = choice["message"].get("content") or "", reply.get("usage") or {}
        yield Delta(text)
        usage = Usage(used.get("prompt_tokens", 0), used.get("completion_tokens", 0), cost_usd=cost_usd)
        length = choice.get("finish_reason") == "length"
        yield Done(usage, not text.strip(), "", 0, finish_reason="length" if length else "stop")

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        """Raises NotFoundError: a route has no documents."""
        raise NotFoundError("a route has no documents", where=ref.uri)

    def close(self) -> None:
        self._wait(self._close())
        self._end()

    def append_all(self, table: str, records: Sequence[Mapping[str, Any]]) -> bool:
        """The engine's log: rows are looked at here, and kept nowhere."""
        self._rows += records
        if any(record["layer"] == "gateway" for record in records):
            self._booked.set()
        return True

    async def _open(self, config: GatewayConfig) -> Gate:
        from llmops.gateway.allowance import open_allowances
        from llmops.gateway.engine.gate import Gate, Staff
        from llmops.gateway.engine.metrics import Metrics
        from llmops.gateway.engine.plan import Parts, build_plan
        from llmops.gateway.http.timers import Timers
        from llmops.gateway.keyring import SNAPSHOT, Ring
        from llmops.gateway.pricing import PriceTable
        from llmops.gateway.worker import connector

        config.folder.mkdir(parents=True, exist_ok=True)
        self._timers, self._allowances = Timers(self._loop), open_allowances(config)
        parts = Parts(
            connector(self._timers),
            PriceTable.load(config.prices),
            lambda route: lambda text: self._gate.embed(route, text),
        )
        plan = build_plan(config, parts)
        await self._allowances.start()
        ring = Ring.load(config.folder / SNAPSHOT)
        return Gate(plan, ring, Staff(self._allowances, self, Metrics(0), self._timers, self._loop))

    async def _ask(self, messages: list[dict[str, Any]]) -> tuple[dict[str, Any], float]:
        """The reply and the dollars of all attempts; the call's own row is the last to come."""
        self._rows.clear()
        self._booked.clear()
        status, reply = await self._gate.ask("chat", {"model": self._route, "messages": messages})
        if status != 200:
            told = reply.get("error") or {}
            raise UpstreamError(f"{status}: {str(told.get('message'))[:300]}", code=str(told.get("code") or "upstream"))
        await asyncio.wait_for(self._booked.wait(), _ROW_S)
        return reply, float(sum(float(row["cost_usd"] or 0) for row in self._rows))

    async def _close(self) -> None:
        await self._allowances.close()
        self._gate.plan.retire(None, self._gate.spawn)
        await self._gate.rest()
        self._timers.close()

    def _wait(self, work: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

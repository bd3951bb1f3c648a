"""A configuration made ready to serve: for each route its targets, already joined to provider, connections and price.

Built once for a configuration and never changed, but for what targets learn (latency, breaker), so that a request only
looks things up. A new configuration is a new plan; requests under way finish on the one they began with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.core.errors import ConfigError
from llmops.core.ids import digest
from llmops.gateway import pricing
from llmops.gateway.abilities import Publisher
from llmops.gateway.cache import RouteCache, open_cache
from llmops.gateway.cache.semantic import Embed
from llmops.gateway.calls import Operation, Pool, Provider, Usage
from llmops.gateway.config import GatewayConfig, ProviderConfig, RoiRule, RouteConfig, TargetConfig
from llmops.gateway.engine.breaker import Breaker
from llmops.gateway.engine.escalation import Escalation
from llmops.gateway.engine.host import Host
from llmops.gateway.engine.measure import Size
from llmops.gateway.guard import Guards, open_guards
from llmops.gateway.pricing import Price, PriceTable

Header = tuple[bytes, bytes]


@dataclass(slots=True, eq=False)
class Connected:
    """A provider and the connections to it. Its key, or what stands for it, tells whether an older plan's may stay."""

    config: ProviderConfig
    provider: Provider
    pool: Pool
    api_key: str | None


@dataclass(slots=True, eq=False)
class Target:
    """One model at one provider, as a route uses it."""

    config: TargetConfig
    label: str
    header: Header
    provider: Provider
    pool: Pool
    native: frozenset[Operation]
    price: Price
    breaker: Breaker
    region: str | None
    tier: int
    weight: float
    variant: str | None
    traced: bool
    """The provider is told of the trace that a request belongs to."""

    latency_s: float = 0.0
    latency_at: float = 0.0
    under_way: int = 0
    rests_until: float = 0.0
    """It asked, by Retry-After, to be left alone until then."""

    rates: tuple[int, int, int] | None = None
    """Input, output and dearest input, in nano-dollars for a million tokens; None for a price with steps."""

    def __post_init__(self) -> None:
        rates = self.price.rates
        if self.price.long is None:
            self.rates = rates.input, rates.output, rates.dearest_input

    def cost(self, usage: Usage) -> int:
        """What a call cost, in nano-dollars."""
        if self.rates is None or usage.cached_tokens or usage.cache_write_tokens or usage.searches:
            return pricing.cost(usage, self.price)
        return -(-(usage.input_tokens * self.rates[0] + usage.output_tokens * self.rates[1]) // 1_000_000)

    def worst(self, input_tokens: int, output_tokens: int, size: Size) -> int:
        """The most that a call within these bounds can cost."""
        if self.rates is None or size.operation == "rerank":
            return pricing.worst(input_tokens, output_tokens, self.price, size.searches)
        return -(-(input_tokens * self.rates[2] + output_tokens * self.rates[1]) // 1_000_000)


@dataclass(slots=True, eq=False)
class Route:
    """One name clients ask for. `tiers` holds only targets inside the allowed regions."""

    config: RouteConfig
    name: str
    asset: str
    version: str
    header: Header
    operations: frozenset[Operation]
    regions: frozenset[str]
    tiers: tuple[tuple[Target, ...], ...]
    arms: tuple[tuple[str, float], ...]
    salt: str
    roi: tuple[RoiRule, ...]
    escalation: Escalation | None
    guards: Guards
    cache: RouteCache | None
    first_byte_s: float
    idle_s: float
    total_s: float
    log_bodies: bool
    only: Target | None
    """The one target of the first tier, where there is nothing to choose."""

    fallbacks: tuple[Route, ...] = ()


@dataclass(slots=True, eq=False)
class Plan:
    """What one configuration means. `running` counts the requests that still need it."""

    config: GatewayConfig
    routes: Mapping[str, Route]
    connected: Mapping[str, Connected]
    host: Host
    keys_needed: bool
    sample: float | None
    """The share of traces that begin here and are kept; None: calls are not traced."""

    running: int = 0
    retired: Callable[[], None] | None = field(default=None)

    def close(self) -> None:
        """The last request of a replaced plan has ended: close what nobody needs any more."""
        retired, self.retired = self.retired, None
        if retired is not None:
            retired()

    def retire(self, newer: Plan | None, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Close what no newer plan took over, once nobody uses it. `spawn` runs what takes time."""
        kept = set(map(id, newer.connected.values())) if newer else set()
        kept |= {id(route.cache) for route in newer.routes.values()} if newer else set()
        pools = [connected.pool for connected in self.connected.values() if id(connected) not in kept]
        caches = [route.cache for route in self.routes.values() if route.cache and id(route.cache) not in kept]

        def close() -> None:
            for pool in pools:
                pool.close()
            for cache in caches:
                spawn(cache.close())

        if self.running:
            self.retired = close
        else:
            close()


@dataclass(slots=True)
class Parts:
    """What a plan is built from: how to connect a provider, what targets cost, and how a route's name embeds texts."""

    connect: Callable[[str, ProviderConfig], Connected]
    prices: PriceTable
    embed: Callable[[str], Embed]


def build_plan(config: GatewayConfig, parts: Parts, before: Plan | None = None) -> Plan:
    """The plan of a configuration; connections, breakers and latencies of unchanged targets are taken over.

    Raises:
        ConfigError: a secret or price is missing, or residency leaves a route no target.
    """
    connected = {name: _connected(name, provider, parts, before) for name, provider in config.providers.items()}
    routes = {
        route.name: _route(config, route, connected, parts, before.routes.get(route.name) if before else None)
        for route in config.routes
    }
    for route in routes.values():
        # One that is not there was retired in the registry: nobody falls back to it.
        route.fallbacks = tuple(routes[name] for name in route.config.fallbacks if name in routes)
    for route in routes.values():
        _check_embedding(route, routes)
    host = Host(config.host, config.allowed_hosts)
    sample = None if config.tracing.exporter == "off" else config.tracing.sample
    return Plan(config, routes, connected, host, config.require_keys or not host.loopback, sample)


def _check_embedding(route: Route, routes: Mapping[str, Route]) -> None:
    """Refuse a semantic cache that would take a route's questions out of its regions to embed them."""
    semantic = route.config.cache.semantic if route.config.cache is not None else None
    by = routes.get(semantic.embedding_route) if semantic is not None and route.regions else None
    if by is None:
        return
    for one in (by, *by.fallbacks):
        for target in (target for tier in one.tiers for target in tier):
            asked = one is by or not by.regions or target.region in by.regions
            if asked and target.region not in route.regions:
                raise ConfigError(
                    f"the route `{route.name}` would be embedded by `{target.label}` outside its regions "
                    f"{sorted(route.regions)}",
                    hint=f"give `{by.name}` the same `regions`, or name another `embedding_route`",
                )


def _connected(name: str, config: ProviderConfig, parts: Parts, before: Plan | None) -> Connected:
    fresh = parts.connect(name, config)
    old = before.connected.get(name) if before else None
    if old is not None and old.config == config and old.api_key == fresh.api_key:
        fresh.pool.close()
        return old
    return fresh


def _route(
    config: GatewayConfig,
    route: RouteConfig,
    connected: Mapping[str, Connected],
    parts: Parts,
    before: Route | None,
) -> Route:
    known = {_identity(target): target for tier in before.tiers for target in tier} if before else {}
    allowed = frozenset(route.regions)
    tiers: dict[int, list[Target]] = {}
    for target in route.targets:
        provider = connected[target.provider]
        if allowed and provider.config.region not in allowed:
            continue
        price = parts.prices.price(provider.config.kind, target.model, stated=target.price, unpriced=config.unpriced)
        ready = _target(target, provider, price, route)
        if (old := known.get(_identity(ready))) is not None and old.provider is ready.provider:
            ready.breaker, ready.latency_s, ready.latency_at = old.breaker, old.latency_s, old.latency_at
        tiers.setdefault(target.tier, []).append(ready)
    if not tiers:
        raise ConfigError(
            f"no target of the route `{route.name}` lies in its regions {sorted(allowed)}",
            hint="give the providers their `region`, or the route other `regions`",
        )
    name = route.version or f"{config.catalog}.gateway.{route.name}/{digest(route.model_dump(mode='json'))[:12]}"
    asset, _, version = name.partition("/")
    ordered = tuple(tuple(tiers[tier]) for tier in sorted(tiers))
    arms = _arms(route, ordered[0])
    return Route(
        config=route,
        name=route.name,
        asset=asset,
        version=version,
        header=(b"x-llmops-route", route.name.encode()),
        operations=frozenset(route.operations),
        regions=allowed,
        tiers=ordered,
        arms=arms,
        salt=(route.experiment.salt or route.experiment.id) if route.experiment else "",
        roi=route.roi,
        escalation=Escalation(route.escalate) if route.escalate else None,
        guards=open_guards(route.guards),
        cache=_cache(config, route, version, parts, before),
        first_byte_s=route.timeouts.first_byte_s,
        idle_s=route.timeouts.idle_s,
        total_s=route.timeouts.total_s,
        log_bodies=route.log_bodies,
        only=_only(route, ordered[0]),
    )


def _only(route: RouteConfig, first: Sequence[Target]) -> Target | None:
    """The target of the first tier, where no request has a choice."""
    if len(first) > 1 or route.experiment or route.roi or first[0].config.context_tokens is not None:
        return None
    return first[0]


def _cache(
    config: GatewayConfig, route: RouteConfig, version: str, parts: Parts, before: Route | None
) -> RouteCache | None:
    """The route's cache; an unchanged route keeps the one it has."""
    if route.cache is None:
        return None
    if before is not None and before.version == version and before.cache is not None:
        return before.cache
    return open_cache(route.cache, (route.name, version), config.store, config.folder, parts.embed)


def _target(config: TargetConfig, connected: Connected, price: Price, route: RouteConfig) -> Target:
    label = f"{config.provider}/{config.model}"
    try:
        re.compile(config.expect_model or "")
    except re.error as error:
        raise ConfigError(f"`expect_model` of {label} is no regular expression: {error}") from error
    if not label.isprintable() or not label.isascii():
        raise ConfigError(f"the target {label!r} holds characters that no header can carry")
    provider = connected.provider
    if isinstance(provider, Publisher):
        provider = provider.of_model(config.model)
    return Target(
        config=config,
        label=label,
        header=(b"x-llmops-target", label.encode()),
        provider=provider,
        pool=connected.pool,
        native=provider.native,
        price=price,
        breaker=Breaker(route.breaker),
        region=connected.config.region,
        tier=config.tier,
        weight=config.weight,
        variant=config.variant,
        traced=connected.config.traceparent,
    )


def _identity(target: Target) -> tuple[str, int, str | None]:
    return target.label, target.tier, target.variant


def _arms(route: RouteConfig, first: Sequence[Target]) -> tuple[tuple[str, float], ...]:
    """The experiment's arms with their shares; the challenger first: its range of buckets is the one that grows."""
    if route.experiment is None:
        return ()
    weights: dict[str, float] = {}
    for target in first:
        if target.variant is not None:
            weights[target.variant] = weights.get(target.variant, 0.0) + target.weight
    total = sum(weights.values())
    if total <= 0:
        raise ConfigError(f"the experiment of the route `{route.name}` has no arm with a weight above 0")
    shares = [(arm, weights[arm] / total) for arm in ("challenger", "champion") if arm in weights]
    return tuple(shares)

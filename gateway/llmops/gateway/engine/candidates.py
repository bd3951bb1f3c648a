"""Picks the target of the next attempt: the tier a request starts with, its arm, and the balance within a tier.

Knows targets, weights, latency and breakers. It never gives a target outside the route's regions: those are not in the
plan, and a fallback route's targets are checked against the regions of the route that was asked for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from llmops.core.assign import assign
from llmops.gateway.calls import Json, Operation
from llmops.gateway.config import RoiRule
from llmops.gateway.engine.measure import Size
from llmops.gateway.engine.plan import Route, Target

_EWMA: Final = 0.2
_FORGOTTEN_S: Final = 30.0


@dataclass(slots=True)
class Search:
    """What one request may still try."""

    route: Route
    operation: Operation
    size: Size
    tier: int = 0
    arm: str | None = None
    tried: tuple[Target, ...] = ()

    def next(self, now: float) -> tuple[Route, Target] | None:
        """The best target not tried yet, and the route it belongs to."""
        for route in (self.route, *self.route.fallbacks):
            if route is not self.route and self.operation not in route.operations:
                continue
            for number, targets in enumerate(route.tiers):
                if route is self.route and targets[0].tier < self.tier:
                    continue
                open_ = [target for target in targets if self._fits(route, target, now)]
                if self.arm is not None and route is self.route and number == 0:
                    open_ = [target for target in open_ if target.variant == self.arm] or open_
                if open_:
                    return route, _best(route, open_, self.size, now)
        return None

    def _fits(self, route: Route, target: Target, now: float) -> bool:
        if target in self.tried or not target.breaker.admits(now):
            return False
        if route is not self.route and self.route.regions and target.region not in self.route.regions:
            return False
        most = target.config.context_tokens
        return most is None or self.size.input_estimate <= most

    def others(self, target: Target, now: float) -> bool:
        """Whether somebody beside this target could be asked."""
        return replace(self, tried=(*self.tried, target)).next(now) is not None

    def reopens_in_s(self, now: float) -> float | None:
        """When the first of the route's own targets may be asked again, where breakers keep them all closed."""
        waits = [target.breaker.until - now for tier in self.route.tiers for target in tier if target.breaker.until]
        return max(1.0, min(waits)) if waits else None


def start_tier(rules: Sequence[RoiRule], body: Json, size: Size, tags: Mapping[str, str]) -> int:
    """The tier of the first rule that matches; 0 where none does."""
    for rule in rules:
        if rule.max_input_tokens is not None and size.input_estimate > rule.max_input_tokens:
            continue
        if rule.min_input_tokens is not None and size.input_estimate < rule.min_input_tokens:
            continue
        if rule.has_tools is not None and rule.has_tools != bool(body.get("tools") or body.get("functions")):
            continue
        if rule.has_images is not None and rule.has_images != bool(size.images):
            continue
        if all(tags.get(name) == value for name, value in rule.tags.items()):
            return rule.tier
    return 0


def arm_of(route: Route, unit: str) -> tuple[str, float]:
    """The unit's arm in the route's experiment, and its propensity."""
    return assign(unit, route.salt, route.arms)


def learn_latency(target: Target, seconds: float, now: float) -> None:
    """Take a reply's time to its first byte into the target's moving average."""
    if not target.latency_s or now - target.latency_at > _FORGOTTEN_S:
        target.latency_s = seconds
    else:
        target.latency_s += _EWMA * (seconds - target.latency_s)
    target.latency_at = now


def _best(route: Route, targets: list[Target], size: Size, now: float) -> Target:
    if len(targets) == 1:
        return targets[0]
    awake = [target for target in targets if target.rests_until <= now] or targets
    if len(awake) == 1:
        return awake[0]
    if route.config.balance == "latency":
        return min(awake, key=lambda target: _pull(target, now))
    if route.config.balance == "cost":
        return min(awake, key=lambda target: _expected_cost(target, size))
    weights = [target.weight for target in awake]
    return random.choices(awake, weights)[0] if any(weights) else awake[0]  # noqa: S311 - balance, not secrecy


def _pull(target: Target, now: float) -> float:
    """Latency times what already waits there; a target of which nothing recent is known comes first."""
    if now - target.latency_at > _FORGOTTEN_S:
        return float(target.under_way) * 1e-6
    return target.latency_s * (1 + target.under_way)


def _expected_cost(target: Target, size: Size) -> int:
    return target.worst(size.input_estimate, size.worst(target.config)[1], size)

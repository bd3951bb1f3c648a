"""What pages and API tell of routes, processes and this moment: the same facts in one form for both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmops.gateway.config import GatewayConfig, RouteConfig, TargetConfig
from llmops.gateway.control.meters import Merged
from llmops.gateway.control.office import BREAKER, Office
from llmops.gateway.control.telemetry import DURATION, FIRST_BYTE, REQUESTS, TOKENS
from llmops.gateway.control.watch import COST, difference
from llmops.gateway.published import read_status

UNDER_WAY = "llmops_gateway_under_way"


def now(office: Office) -> dict[str, Any]:
    """Traffic, cost, errors and latency of the last minutes, and what is under way."""
    samples, rates = office.watch.samples(), office.watch.rates()
    merged = office.watch.read()
    first = samples[0].merged if samples else Merged()
    requests = merged.total(REQUESTS) - first.total(REQUESTS)
    errors = sum(
        merged.total(REQUESTS, status=status) - first.total(REQUESTS, status=status) for status in ("4xx", "5xx")
    )
    durations = difference(first, merged, DURATION, status="2xx")
    first_bytes = difference(first, merged, FIRST_BYTE, status="2xx")
    seconds = rates[-1].time - samples[0].time if rates else 0.0
    return {
        "window_s": round(seconds),
        "requests": round(requests),
        "errors": round(errors),
        "requests_per_s": rates[-1].requests_per_s if rates else 0.0,
        "tokens": round(sum(merged.total(name) - first.total(name) for name in TOKENS.values())),
        "cost_usd": (merged.total(COST) - first.total(COST)) / 1e9,
        "under_way": round(merged.gauge(UNDER_WAY)),
        "p50_s": durations.quantile(0.5) if durations else None,
        "p95_s": durations.quantile(0.95) if durations else None,
        "first_byte_s": first_bytes.quantile(0.5) if first_bytes else None,
    }


def processes(office: Office) -> dict[str, Any]:
    """The supervisor and what it started, and how the last reload went."""
    status, counters = read_status(office.folder), office.drainer.counters
    found: dict[str, Any] = {
        "pid": status.pid if status else None,
        "file": status.file if status else None,
        "config_hash": status.config_hash if status else None,
        "reloads": status.reloads if status else 0,
        "reload": vars(status.reload) if status else None,
        "processes": [vars(process) for process in status.processes] if status else [],
        "problems": dict(office.watch.duties.problems),
        "drainer": {
            "records": counters.records,
            "last_round_at": counters.last_round_at,
            "last_error": counters.last_error,
            "failures": counters.failures,
        },
    }
    if office.publisher.problem:
        found["problems"]["publish the keys"] = office.publisher.problem
    return found


def routes(office: Office) -> list[dict[str, Any]]:
    """Every route with its targets: share of the requests of the last minutes, health, latency, reported model."""
    config, merged = office.config(), office.watch.read()
    samples = office.watch.samples()
    first = samples[0].merged if samples else Merged()
    return [_route(office, config, route, merged, first) for route in config.routes]


def _route(office: Office, config: GatewayConfig, route: RouteConfig, merged: Merged, first: Merged) -> dict[str, Any]:
    before, after = (one.by(REQUESTS, "target", route=route.name) for one in (first, merged))
    recent = {label: after[label] - before.get(label, 0) for label in after}
    total = sum(recent.values())
    asked = total - recent.get("", 0)  # the rest was refused before a target was chosen
    return {
        "name": route.name,
        "operations": list(route.operations),
        "balance": route.balance,
        "fallbacks": list(route.fallbacks),
        "regions": list(route.regions),
        "cache": route.cache is not None,
        "guards": [f"{guard.check} ({guard.action} on {guard.on})" for guard in route.guards],
        "limits": route.limits.model_dump(exclude_none=True),
        "experiment": route.experiment.id if route.experiment else None,
        "requests": round(total),
        "requests_ever": round(merged.total(REQUESTS, route=route.name)),
        "cost_usd_ever": merged.total(COST, route=route.name) / 1e9,
        "targets": [
            {**_target(config, route, target), **_health(office, route, target, merged, first),
             "requests": round(recent.get(_label(target), 0)),
             "share": recent.get(_label(target), 0) / asked if asked else None}
            for target in sorted(route.targets, key=lambda target: target.tier)
        ],
    }  # fmt: skip


def _target(config: GatewayConfig, route: RouteConfig, target: TargetConfig) -> dict[str, Any]:
    provider = config.providers[target.provider]
    return {
        "label": _label(target),
        "provider": target.provider,
        "kind": provider.kind,
        "model": target.model,
        "region": provider.region,
        "tier": target.tier,
        "weight": target.weight,
        "variant": target.variant,
        "allowed": not route.regions or provider.region in route.regions,
    }


def _health(office: Office, route: RouteConfig, target: TargetConfig, merged: Merged, first: Merged) -> dict[str, Any]:
    label = _label(target)
    durations = difference(first, merged, DURATION, route=route.name, target=label, status="2xx")
    reported = office.models.targets.get(label)
    errors = sum(
        merged.total(REQUESTS, route=route.name, target=label, status=status)
        - first.total(REQUESTS, route=route.name, target=label, status=status)
        for status in ("4xx", "5xx")
    )
    return {
        "breaker": "open" if merged.gauge(BREAKER, route=route.name, target=label) else "closed",
        "errors": round(errors),
        "p50_s": durations.quantile(0.5) if durations else None,
        "reported_model": reported.model if reported else None,
    }


def _label(target: TargetConfig) -> str:
    return f"{target.provider}/{target.model}"


def lines_of(office: Office) -> Iterator[str]:
    """Meters of the control process itself, in Prometheus' format."""
    counters = office.drainer.counters
    for name, kind, value in (
        ("llmops_drain_records_total", "counter", counters.records),
        ("llmops_drain_commits_total", "counter", counters.commits),
        ("llmops_drain_dead_letters_total", "counter", counters.dead_letters),
        ("llmops_drain_failures_total", "counter", counters.failures),
        ("llmops_gateway_alerts_open", "gauge", sum(alert.ended_at is None for alert in office.alerts.list())),
    ):
        yield f"# TYPE {name} {kind}\n{name} {value}"

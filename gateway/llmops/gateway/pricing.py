"""What a call costs, in whole nano-dollars, by a dated table with its sources; no guess, no float.

A price nobody knows is an error when the configuration is loaded, or an explicit zero. Knows tokens, searches and
prices; what a call used is the provider's matter, who pays is the allowances'. Left out on purpose: batch, flex,
priority and fast tiers, regional surcharges, storage of caches by the hour, audio and image prices. Whoever uses those
states the price in the configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from llmops.core.errors import ConfigError, did_you_mean
from llmops.gateway.calls import Usage
from llmops.gateway.config import PriceConfig

TABLE = Path(__file__).with_name("prices.json")
STALE_DAYS = 90
_MILLION = 1_000_000
_SNAPSHOTS = {"dashed": re.compile(r"-\d{4}-\d{2}-\d{2}$"), "compact": re.compile(r"-\d{8}$")}


@dataclass(slots=True, frozen=True)
class Rates:
    """Nano-dollars for a million tokens; `search` for a million searches."""

    input: int
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    search: int = 0

    @property
    def dearest_input(self) -> int:
        return max(self.input, self.cached_input, self.cache_write, self.cache_write_long)


@dataclass(slots=True, frozen=True)
class Price:
    """What one model costs. A request of more than `long_above` input tokens is priced by `long` as a whole."""

    rates: Rates
    long_above: int | None = None
    long: Rates | None = None
    source: str = "configuration"
    effective: date | None = None
    unpriced: bool = False
    """Nobody knows the price, and the configuration says that the model is free: tag its rows `unpriced=1`."""

    def rates_for(self, input_tokens: int) -> Rates:
        if self.long is not None and self.long_above is not None and input_tokens > self.long_above:
            return self.long
        return self.rates


FREE = Price(Rates(0), source="nobody knows it", unpriced=True)


def cost(usage: Usage, price: Price) -> int:
    """Nano-dollars of a call, rounded up to the next one."""
    rates = price.rates_for(usage.input_tokens)
    written = max(usage.cache_write_tokens, 0)
    long_written = min(max(usage.cache_write_long_tokens, 0), written)
    cached = max(usage.cached_tokens, 0)
    fresh = max(usage.input_tokens - cached - written, 0)
    total = (
        fresh * rates.input
        + cached * rates.cached_input
        + (written - long_written) * rates.cache_write
        + long_written * rates.cache_write_long
        + max(usage.output_tokens, 0) * rates.output
        + max(usage.searches, 0) * rates.search
    )
    return -(-total // _MILLION)


def worst(input_ceiling: int, output_ceiling: int, price: Price, searches: int = 0) -> int:
    """The most that a call within these ceilings can cost: every input token at its dearest price."""
    possible = [price.rates]
    if price.long is not None and price.long_above is not None and input_ceiling > price.long_above:
        possible.append(price.long)
    total = max(
        input_ceiling * rates.dearest_input + output_ceiling * rates.output + searches * rates.search
        for rates in possible
    )
    return -(-total // _MILLION)


class PriceTable:
    """The prices of the package with those of a configuration laid over them."""

    def __init__(
        self, entries: Mapping[tuple[str, str], list[_Entry]], overrides: Mapping[str, Price], read: date
    ) -> None:
        self._entries = entries
        self._overrides = overrides
        self.read = read

    @classmethod
    def load(cls, overrides: Mapping[str, PriceConfig] | None = None, path: Path = TABLE) -> PriceTable:
        """Read the table. `overrides`: `provider kind/model` -> price, as in `prices:` of the configuration.

        Raises:
            ConfigError: the file is not a price table.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            entries: dict[tuple[str, str], list[_Entry]] = {}
            for item in data["entries"]:
                entry = _Entry.of(item)
                for model in item["models"]:
                    entries.setdefault((item["provider"], model), []).append(entry)
            read = date.fromisoformat(data["read"])
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise ConfigError(f"the price table cannot be read: {error!r}", where=str(path)) from error
        for dated in entries.values():
            dated.sort(key=lambda entry: entry.effective)
        return cls(entries, {name: of_config(price) for name, price in (overrides or {}).items()}, read)

    def find(self, provider: str, model: str, on: date | None = None) -> Price | None:
        """The price of a model at a provider of this kind on a day (UTC; today), or None where nobody knows it."""
        if stated := self._overrides.get(f"{provider}/{model}"):
            return stated
        on = on or datetime.now(UTC).date()
        dated = self._entries.get((provider, model)) or self._snapshot(provider, model)
        return next((entry.price for entry in reversed(dated) if entry.effective <= on), None)

    def price(
        self,
        provider: str,
        model: str,
        *,
        stated: PriceConfig | None = None,
        unpriced: Literal["refuse", "free"] = "refuse",
        on: date | None = None,
    ) -> Price:
        """The price a target is booked by: its own, else the configuration's, else the table's.

        Raises:
            ConfigError: nobody knows it, and `unpriced` says to refuse.
        """
        if stated is not None:
            return of_config(stated)
        found = self.find(provider, model, on)
        if found is not None:
            return found
        if unpriced == "free":
            return FREE
        near = did_you_mean(f"{provider}/{model}", [f"{kind}/{name}" for kind, name in self._entries])
        state = f"state it under `prices: {provider}/{model}:`, or say `unpriced: free`"
        raise ConfigError(
            f"the price of `{model}` at a provider of kind `{provider}` is not known",
            hint=f"{state} ({near})" if near else state,
        )

    def stale(self, on: date | None = None, days: int = STALE_DAYS) -> str | None:
        """A warning where the table was read too long ago; None while it is fresh."""
        age = ((on or datetime.now(UTC).date()) - self.read).days
        if age <= days:
            return None
        return f"the price table was read {age} days ago, on {self.read}: compare it with the providers' pages"

    def _snapshot(self, provider: str, model: str) -> list[_Entry]:
        """Entries of the model that this dated name is a snapshot of, where the provider prices them alike."""
        for form, pattern in _SNAPSHOTS.items():
            if match := pattern.search(model):
                dated = self._entries.get((provider, model[: match.start()]), [])
                return [entry for entry in dated if entry.snapshots == form]
        return []


@dataclass(slots=True, frozen=True)
class _Entry:
    price: Price
    effective: date
    snapshots: str | None

    @classmethod
    def of(cls, item: dict[str, Any]) -> _Entry:
        effective = date.fromisoformat(item["effective"])
        long = item.get("long")
        price = Price(
            _rates(item),
            long_above=long["above"] if long else None,
            long=_rates(long) if long else None,
            source=item["source"],
            effective=effective,
        )
        return cls(price, effective, item.get("snapshots"))


def of_config(stated: PriceConfig) -> Price:
    """A price written in a configuration."""
    return Price(_rates(stated.model_dump(exclude_none=True)))


def _rates(item: Mapping[str, Any]) -> Rates:
    """Dollars for a million tokens (a thousand searches) -> nano-dollars for a million."""
    ordinary = _nano(item["input"])
    written = _nano(item["cache_write"]) if "cache_write" in item else ordinary
    return Rates(
        input=ordinary,
        output=_nano(item.get("output", 0)),
        cached_input=_nano(item["cached_input"]) if "cached_input" in item else ordinary,
        cache_write=written,
        cache_write_long=_nano(item["cache_write_long"]) if "cache_write_long" in item else written,
        search=_nano(item.get("search", 0)) * 1000,
    )


def _nano(dollars: str | int | Decimal) -> int:
    if isinstance(dollars, float):
        raise ValueError('prices are written as text, such as "0.25"')
    nano = Decimal(dollars) * 10**9
    if nano != nano.to_integral_value() or nano < 0:
        raise ValueError(f"{dollars} is no price in whole nano-dollars for a million tokens")
    return int(nano)

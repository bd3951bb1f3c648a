"""Card transactions made by a seed: a year in which fraud changes and the truth arrives late.

The world that is simulated, so that what a model finds can be judged:

- Customers have a home country, a usual amount (log-normal) and an hour of the day; merchants have a category. Amounts
  rise by 1% a month, and the online share from 35% to 50%: drift that is no fraud.
- *Stolen cards* (all year): some three times the usual amount, mostly at night, abroad, for electronics or travel. From
  August on only a third as many.
- *Card testing* (from August on): bursts of small online amounts for gift cards or games, from a device seen for the
  first time. A model that learned before August has never seen it.
- A fraud is reported after about 12 days (log-normal, 45 at most); 3% never are. That a transaction was none is taken
  as known after 45 days. So the newest 45 days have no honest labels yet, and nobody may train on them.

Knows numpy and Arrow. One seed is one world, to the byte, and a month of it is the same however many are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

START = datetime(2025, 1, 1, tzinfo=UTC)
MONTHS = 12
NEW_FRAUD = datetime(2025, 8, 1, tzinfo=UTC)
MATURITY = timedelta(days=45)
CATEGORIES = ("electronics", "fuel", "games", "gift_cards", "grocery", "travel")
COUNTRIES = ("DE", "FR", "NL", "PL")
_DAY_US = 86_400_000_000
_RISE = 1.01
_USUAL = np.array([0.08, 0.2, 0.1, 0.05, 0.45, 0.12])  # of CATEGORIES, where nobody cheats
Rows = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class World:
    """Who there is: how many customers, merchants and honest transactions a month, and the seed of it all."""

    seed: int = 7
    customers: int = 1500
    merchants: int = 200
    a_month: int = 4000

    def month(self, number: int) -> pa.Table:
        """The transactions of month 0 to 11, by time. `is_fraud` is the truth, `reported` what will be known of it.

        Columns: transaction_id, event_time, customer_id, home, merchant_id, category, channel, country, amount,
        device_age_days, is_fraud, reported, known_at.
        """
        generator = np.random.default_rng([self.seed, 1, number])
        people = _People(self)
        parts = [self._honest(generator, people, number), self._stolen(generator, people, number)]
        if begin_of(number) >= NEW_FRAUD:
            parts.append(self._testing(generator, people, number))
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(rows["event_us"], kind="stable")
        return _table({name: values[order] for name, values in rows.items()}, people, number, generator)

    def _honest(self, generator: np.random.Generator, people: _People, number: int) -> Rows:
        size = self.a_month
        customer = generator.choice(self.customers, size, p=people.activity)
        hour = np.clip(generator.normal(people.hour[customer], 3.0), 0, 23.99)
        online = generator.random(size) < 0.35 + 0.15 * number / (MONTHS - 1)
        away = generator.random(size) < 0.04
        return {
            "customer": customer,
            "event_us": _moments(generator, number, hour),
            "category": generator.choice(len(CATEGORIES), size, p=_USUAL),
            "online": online,
            "country": np.where(away, generator.integers(0, len(COUNTRIES), size), people.home[customer]),
            "amount": people.amount[customer] * _RISE**number * generator.lognormal(0, 0.6, size),
            "device_age": np.where(generator.random(size) < 0.05, 0, generator.exponential(200, size)),
            "fraud": np.zeros(size, bool),
        }

    def _stolen(self, generator: np.random.Generator, people: _People, number: int) -> Rows:
        size = int(self.a_month * (0.015 if begin_of(number) < NEW_FRAUD else 0.005))
        customer = generator.choice(self.customers, size)
        hour = np.where(generator.random(size) < 0.7, generator.uniform(0, 5, size), generator.uniform(5, 24, size))
        away = generator.integers(1, len(COUNTRIES), size) * (generator.random(size) < 0.7)
        return {
            "customer": customer,
            "event_us": _moments(generator, number, hour),
            "category": generator.choice([0, 4, 5], size, p=[0.5, 0.1, 0.4]),
            "online": generator.random(size) < 0.6,
            "country": (people.home[customer] + away) % len(COUNTRIES),
            "amount": people.amount[customer] * _RISE**number * generator.lognormal(np.log(3), 0.7, size),
            "device_age": generator.exponential(90, size),
            "fraud": np.ones(size, bool),
        }

    def _testing(self, generator: np.random.Generator, people: _People, number: int) -> Rows:
        bursts, length = max(1, int(self.a_month * 0.004)), 5
        victims = np.repeat(generator.choice(self.customers, bursts), length)
        size = bursts * length
        first = np.repeat(_moments(generator, number, generator.uniform(0, 23, bursts)), length)
        step = np.tile(np.arange(length), bursts) * 240_000_000 + generator.integers(0, 60_000_000, size)
        return {
            "customer": victims,
            "event_us": first + step,
            "category": generator.choice([2, 3], size),
            "online": np.ones(size, bool),
            "country": people.home[victims],
            "amount": generator.lognormal(np.log(8), 0.7, size),
            "device_age": generator.exponential(3, size),
            "fraud": np.ones(size, bool),
        }


class _People:
    """What stays the same about customers and merchants all year."""

    def __init__(self, world: World) -> None:
        generator = np.random.default_rng([world.seed, 0])
        self.home = generator.choice(len(COUNTRIES), world.customers, p=[0.6, 0.2, 0.12, 0.08])
        self.amount = generator.lognormal(3.4, 0.5, world.customers)
        self.hour = generator.normal(14, 3, world.customers)
        activity = generator.gamma(1.5, 1.0, world.customers)
        self.activity = activity / activity.sum()
        kinds = generator.permutation(np.arange(world.merchants) % len(CATEGORIES))
        self.of_category = [np.flatnonzero(kinds == kind) for kind in range(len(CATEGORIES))]


def begin_of(month: int) -> datetime:
    """The first moment of month 0 (January) to 12 (the January after)."""
    return START.replace(year=START.year + month // 12, month=month % 12 + 1)


def _moments(generator: np.random.Generator, number: int, hour: npt.NDArray[Any]) -> npt.NDArray[Any]:
    days = (begin_of(number + 1) - begin_of(number)).days
    midnight = int(begin_of(number).timestamp()) * 1_000_000
    day = generator.integers(0, days, len(hour))
    return midnight + day * _DAY_US + (hour * 3_600_000_000).astype(np.int64)


def _table(rows: Rows, people: _People, number: int, generator: np.random.Generator) -> pa.Table:
    size = len(rows["fraud"])
    spots = generator.random(size)
    merchant = np.array(
        [
            people.of_category[kind][int(spot * len(people.of_category[kind]))]
            for kind, spot in zip(rows["category"], spots, strict=True)
        ]
    )
    reported = rows["fraud"] & (generator.random(size) >= 0.03)
    delay_days = np.where(reported, np.minimum(generator.lognormal(2.3, 0.6, size), MATURITY.days), MATURITY.days)
    moments = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "transaction_id": pa.array([f"t{number:02d}{place:06d}" for place in range(size)]),
            "event_time": pa.array(rows["event_us"]).cast(moments),
            "customer_id": pa.array([f"c{one:05d}" for one in rows["customer"]]),
            "home": _words(COUNTRIES, people.home[rows["customer"]]),
            "merchant_id": pa.array([f"m{one:04d}" for one in merchant]),
            "category": _words(CATEGORIES, rows["category"]),
            "channel": _words(("card", "online"), rows["online"].astype(int)),
            "country": _words(COUNTRIES, rows["country"]),
            "amount": pa.array(np.round(rows["amount"], 2)),
            "device_age_days": pa.array(np.round(rows["device_age"], 1)),
            "is_fraud": pa.array(rows["fraud"]),
            "reported": pa.array(reported),
            "known_at": pa.array(rows["event_us"] + (delay_days * _DAY_US).astype(np.int64)).cast(moments),
        }
    )


def _words(words: tuple[str, ...], places: npt.NDArray[Any]) -> pa.Array:
    return pa.array(words).take(pa.array(places))

"""Money to the nano-dollar: no float, nothing guessed, and never more than what was reserved."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Usage
from llmops.gateway.config import PriceConfig
from llmops.gateway.pricing import FREE, TABLE, PriceTable, cost, of_config, worst

ON = date(2026, 11, 24)
HAIKU = PriceTable.load().price("anthropic", "claude-haiku-5-5", on=ON)
tokens = st.integers(0, 2_000_000)
prices = st.decimals(0, 100, places=9)


def test_cached_and_written_tokens_have_their_own_price() -> None:
    price = PriceTable.load().price("anthropic", "claude-opus-5-5", on=ON)
    usage = Usage(1000, 100, cached_tokens=300, cache_write_tokens=200, cache_write_long_tokens=50)
    assert cost(usage, price) == 500 * 4_000 + 300 * 200 + 150 * 5_000 + 50 * 8_000 + 100 * 20_000


def test_a_long_prompt_is_priced_as_a_whole() -> None:
    assert cost(Usage(100_000, 10), HAIKU) == 100_000 * 100 + 10 * 500
    assert cost(Usage(100_001, 10), HAIKU) == 100_001 * 500 + 10 * 2_500
    assert worst(100_001, 10, HAIKU) == 100_001 * 1_000 + 10 * 2_500


def test_searches_are_priced_by_the_thousand() -> None:
    price = PriceTable.load().price("cohere", "rerank-v4.0-fast", on=ON)
    assert cost(Usage(searches=1), price) == 2_000_000
    assert worst(10_000, 0, price, searches=3) == 6_000_000


@given(st.tuples(tokens, tokens, tokens, tokens, tokens), prices, prices, prices)
def test_cost_is_exact_and_rounds_up(counts, input_price, output, cached) -> None:
    a, b, c, d, searches = counts
    stated = PriceConfig(input=input_price, output=output, cached_input=cached, search=output)
    usage = Usage(a + c + d, b, cached_tokens=c, cache_write_tokens=d, searches=searches)
    dollars = (a + d) * Fraction(stated.input) + b * Fraction(stated.output) + c * Fraction(cached)
    exact = dollars * 1000 + searches * Fraction(stated.search) * 1_000_000
    assert cost(usage, of_config(stated)) == ceil(exact)


@given(
    st.tuples(*[st.integers(0, 300_000)] * 5),
    st.integers(0, 9),
    st.sampled_from(["claude-haiku-5-5", "claude-fable-5-1", "gpt-6.1-sol"]),
)
def test_no_usage_within_the_ceilings_costs_more_than_the_worst(counts, searches, model) -> None:
    total, out, cached, written, long = counts
    kind = "openai" if model.startswith("gpt") else "anthropic"
    price = PriceTable.load().price(kind, model, on=ON)
    cached = min(cached, total)
    written = min(written, total - cached)
    usage = Usage(total, out, cached, written, searches=searches, cache_write_long_tokens=long)
    assert cost(usage, price) <= worst(total, out, price, searches)
    assert worst(total, out, price) <= worst(total + 1, out + 1, price)


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5))
def test_nonsense_from_an_upstream_costs_no_less_than_nothing(a, b, c, d) -> None:
    assert cost(Usage(a, b, cached_tokens=c, cache_write_tokens=d), HAIKU) >= 0


def test_an_unknown_model_is_an_error_or_an_explicit_zero() -> None:
    table = PriceTable.load()
    with pytest.raises(ConfigError, match=r"price of `gpt-6\.3-sol`") as error:
        table.price("openai", "gpt-6.3-sol", on=ON)
    assert "prices: openai/gpt-6.3-sol:" in (error.value.hint or "")
    assert "gpt-6.2-sol" in (error.value.hint or "")
    free = table.price("openai", "gpt-6.3-sol", unpriced="free")
    assert free is FREE
    assert free.unpriced
    assert cost(Usage(10**9, 10**9), free) == 0


def test_a_stated_price_stands_above_the_table() -> None:
    table = PriceTable.load({"openai/gpt-4.1": PriceConfig(input=Decimal("0.000000001"), output=Decimal(1))})
    assert table.price("openai", "gpt-4.1").rates.input == 1
    own = table.price("openai", "gpt-4.1", stated=PriceConfig(input=Decimal(9)))
    assert own.rates.input == own.rates.cached_input == own.rates.cache_write == 9_000_000_000


def test_prices_change_on_their_day() -> None:
    table = PriceTable.load()
    assert table.price("gemini", "gemini-3.8-flash", on=date(2026, 12, 31)).rates.input == 750_000_000
    assert table.price("gemini", "gemini-3.8-flash", on=date(2027, 1, 1)).rates.input == 1_500_000_000
    assert table.find("gemini", "gemini-3.8-flash", date(2026, 9, 1)) is None


def test_dated_names_are_known_only_where_the_provider_prices_them_alike() -> None:
    table = PriceTable.load()
    assert table.price("anthropic", "claude-haiku-4-5-20251001", on=ON).rates.input == 1_000_000_000
    assert table.price("openai", "gpt-4.1-2025-04-14", on=ON).rates.output == 8_000_000_000
    assert table.find("openai", "gpt-4o-2024-05-13", ON) is None  # the first gpt-4o cost twice as much
    assert table.find("openai", "gpt-4.1-20250414", ON) is None
    assert table.find("azure", "gpt-4.1", ON) is None  # a deployment's name is anybody's


def test_every_entry_names_its_source_and_its_day() -> None:
    entries = json.loads(TABLE.read_text(encoding="utf-8"))["entries"]
    for entry in entries:
        assert entry["source"].startswith("https://")
        assert date.fromisoformat(entry["read"]) >= date.fromisoformat("2026-11-24")
    assert {entry["provider"] for entry in entries} == {"openai", "anthropic", "gemini", "cohere", "mistral"}


def test_an_old_table_is_told() -> None:
    table = PriceTable.load()
    assert table.stale(ON) is None
    assert "compare it with the providers' pages" in (table.stale(date(2027, 6, 1)) or "")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"read": "2026-01-01", "entries": [{}]}', '{"read": "yesterday", "entries": []}',
     '{"read": "2026-01-01", "entries": [{"provider": "openai", "models": ["m"], "effective": "2026-01-01",'
     ' "source": "x", "input": 0.1}]}'],
)  # fmt: skip
def test_a_broken_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read") as error:
        PriceTable.load(path=path)
    assert error.value.where == str(path)

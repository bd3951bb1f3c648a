"""The configuration in the page on translation is one that the gateway takes, and its promises are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from llmops.gateway.config import GatewayConfig
from llmops.gateway.pricing import PriceTable
from llmops.gateway.providers import open_provider

PAGE = (Path(__file__).parents[2] / "docs" / "gateway-translation.md").read_text(encoding="utf-8")


@pytest.fixture
def config() -> GatewayConfig:
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    return GatewayConfig.model_validate(yaml.safe_load(block[1]))


def test_every_provider_of_the_page_opens(config: GatewayConfig) -> None:
    native = {name: open_provider(provider, "key").native for name, provider in config.providers.items()}
    assert native == {"claude": {"messages"}, "gemini": frozenset(), "cohere": {"rerank"}}


def test_every_route_of_the_page_can_be_asked(config: GatewayConfig) -> None:
    asked = {
        "smart": ("chat", {"messages": [{"role": "user", "content": "Hi"}]}),
        "search": ("rerank", {"query": "q", "documents": ["d"]}),
    }
    for route in config.routes:
        operation, body = asked[route.name]
        for target in route.targets:
            provider = open_provider(config.providers[target.provider], "key")
            request = provider.build(operation, {"model": route.name, **body}, target)  # type: ignore[arg-type]
            assert target.model.encode() in request.body + request.path.encode()


def test_every_model_of_the_page_has_a_price(config: GatewayConfig) -> None:
    table = PriceTable.load()
    for route in config.routes:
        for target in route.targets:
            kind = config.providers[target.provider].kind
            assert target.price or table.find(kind, target.model), target.model


def test_the_header_of_the_page_goes_out(config: GatewayConfig) -> None:
    found = re.search(r"`headers: \{(anthropic-beta): (\S+)\}`", PAGE)
    assert found is not None
    claude = config.providers["claude"].model_copy(update={"headers": {found[1]: found[2]}})
    body = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}]}
    request = open_provider(claude, "key").build("chat", body, config.routes[0].targets[0])
    assert (found[1].encode(), found[2].encode()) in request.headers

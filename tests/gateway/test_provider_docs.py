"""The page on providers shows a configuration that works, and a table that is true."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from llmops.gateway.config import GatewayConfig, ProviderConfig
from llmops.gateway.providers import open_provider

PAGE = (Path(__file__).parents[2] / "docs" / "gateway-providers.md").read_text(encoding="utf-8")


def test_the_configuration_on_the_page_opens_every_provider() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = GatewayConfig.model_validate(yaml.safe_load(block))
    opened = {name: open_provider(provider, "a-key") for name, provider in config.providers.items()}
    assert {provider.kind for provider in config.providers.values()} == {
        "openai",
        "anthropic",
        "azure",
        "gemini",
        "cohere",
        "mistral",
        "bedrock",
        "vertex",
    }
    for route in config.routes:
        for target in route.targets:
            assert opened[target.provider].native & set(route.operations)


def test_the_table_of_operations_is_true() -> None:
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)`[^|]* \| ([^|]*) \|", PAGE, re.MULTILINE)}
    assert rows.keys() == {"openai", "azure", "mistral", "anthropic"}
    for kind, told in rows.items():
        url = "https://x.openai.azure.com" if kind == "azure" else "http://localhost:1/v1" if kind == "openai" else None
        native = open_provider(ProviderConfig.model_validate({"kind": kind, "url": url}), "a-key").native
        always = told.partition(";")[0].partition(", or what")[0]
        assert native == {name.strip() for name in always.split(",")}
